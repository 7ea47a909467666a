"""Starts the servers. nginx, HAProxy and Apache stand in front of an origin of ours and pass on what they have read."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.gateway_process import eventually

HERE = Path(__file__).resolve().parent

NGINX = """\
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  large_client_header_buffers 8 64k; client_max_body_size 10m;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{behind};
      proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Connection "";
      proxy_buffer_size 64k; proxy_buffers 4 64k;
    }}
  }}
}}
"""
HAPROXY = """\
global
  tune.bufsize 131072
  tune.http.maxhdr 512
defaults
  mode http
  timeout connect 5s
  timeout client 20s
  timeout server 20s
frontend all
  bind 127.0.0.1:{port}
  default_backend origin
backend origin
  server origin 127.0.0.1:{behind}
"""
APACHE = """\
ServerRoot {directory}
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {directory}/apache.pid
ErrorLog {directory}/apache.log
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
LimitRequestLine 65536
LimitRequestFieldSize 65536
LimitRequestFields 512
MaxRanges none
AllowEncodedSlashes NoDecode
ProxyPreserveHost On
ProxyPass / http://127.0.0.1:{behind}/ nocanon
"""
APACHE_MODULES = "/usr/lib/apache2/modules"
# Those that pass on what they have read; the others answer for themselves.
PROXIES = ("nginx", "haproxy", "apache2")
NAMES = (*PROXIES, "node", "gunicorn")


def _command(name: str, directory: Path, port: int, behind: int) -> list[str]:
    program = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin") or name
    values = {"directory": directory, "port": port, "behind": behind, "modules": APACHE_MODULES}
    if name == "node":
        return [program, str(HERE / "node_origin.js"), str(port)]
    if name == "gunicorn":
        options = ["--limit-request-line", "0", "--limit-request-field_size", "0", "--limit-request-fields", "1000"]
        application = "tests.foreign.wsgi_origin:application"
        keep = ["--worker-class", "gthread", "--threads", "4", "--keep-alive", "30", "--chdir", str(HERE.parent.parent)]
        return [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", *keep, *options, application]
    file = directory / f"{name}.conf"
    file.write_text({"nginx": NGINX, "haproxy": HAPROXY, "apache2": APACHE}[name].format(**values))
    return {
        "nginx": [program, "-c", str(file), "-p", str(directory)],
        "haproxy": [program, "-f", str(file)],
        "apache2": [program, "-f", str(file), "-DFOREGROUND"],
    }[name]


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


@contextmanager
def running_server(name: str, directory: Path, *, behind: int) -> Iterator[int]:
    """The port on which the server listens; `behind` is that of the origin for a server that passes on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with (directory / f"{name}.out").open("wb") as out:
        process = subprocess.Popen(_command(name, directory, port, behind), stdout=out, stderr=out)
    try:
        eventually(lambda: process.poll() is not None or _answers(port), f"{name} listens")
        if process.poll() is not None:
            raise AssertionError((directory / f"{name}.out").read_text())
        yield port
    finally:
        process.terminate()
        process.wait(20)
