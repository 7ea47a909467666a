"""Kinds of addresses: of targets, of stores, of hosts, of files. Those that may carry a password are never shown."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from ostiary.core.config.fields import Kind, Schema
from ostiary.core.config.kinds import read_text
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.paths import TemplateError, parse_template
from ostiary.core.upstream import UNIX

_SOCKET_PATH_BYTES_MAX: Final = 103  # macOS; 107 on Linux (unix(7))
# A label may have underscores here: names of containers and of services in clusters do.
_HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*")


def _split(text: str) -> SplitResult | None:
    """None for what is no URL at all."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # a property that raises for a port that is not a number, or too large
    except ValueError:
        return None
    return parts


class Origin(Kind[tuple[str, str, int]]):
    """Scheme, host and port of a server: `http://host:port`. Calls keep their own path, so none is written here. A server
    on a unix socket is `unix:/path`; its host is that path."""

    def read(self, place: Place, reading: Reading) -> tuple[str, str, int] | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        if text.value.lower().startswith(("unix:", "http+unix:")):
            return self._socket(text.value, place, reading)
        url = _split(text.value)
        if url is None:
            return reading.problem(place, f"must be {self.words}", "write http://host:port")
        if url.scheme not in ("http", "https") or not url.hostname:
            return reading.problem(place, f"must be {self.words}", "write http://host:port")
        if "@" in url.netloc:
            return reading.problem(
                place, "a target's URL can't have a user or password", "calls carry their own headers"
            )
        if url.path not in ("", "/") or url.query or url.fragment or text.value.endswith(("?", "#")):
            return reading.problem(
                place,
                "a target's URL ends with the port: calls keep their own path and query",
                f"write {url.scheme}://{url.netloc}" if not text.expanded else None,
            )
        host = url.hostname
        if not _is_host(host):
            return reading.problem(place, f"must be {self.words}", "the host is a DNS name or an IP address")
        port = url.port if url.port is not None else (443 if url.scheme == "https" else 80)
        if port == 0:
            return reading.problem(place, "a target can't have port 0")
        return url.scheme, host, port

    def _socket(self, text: str, place: Place, reading: Reading) -> tuple[str, str, int] | Refused:
        path = text.removeprefix("unix:")
        if path == text or not path.startswith("/") or path.startswith("//") or path.endswith("/"):
            return reading.problem(place, "must be unix: and the absolute path of a socket", "write unix:/run/app.sock")
        if len(path.encode()) > _SOCKET_PATH_BYTES_MAX:
            return reading.problem(
                place, f"the path of a unix socket has at most {_SOCKET_PATH_BYTES_MAX} bytes", "give it a shorter one"
            )
        return UNIX, path, 0

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^https?://[^/?#@]+/?$|^unix:/[^/]|\$\{"}

    @property
    def words(self) -> str:
        return "the URL of a server, `http://host:port`, `https://host:port` or `unix:/run/app.sock`"


class StoreUrl(Kind[str]):
    """The URL of a store, which may carry a password: it is never shown."""

    def __init__(self, schemes: tuple[str, ...]) -> None:
        self._schemes = schemes

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        url = _split(text.value)
        if url is not None and url.password:
            reading.is_secret(url.password)
        if url is None or url.scheme not in self._schemes or not text.value.startswith(f"{url.scheme}://"):
            return reading.problem(place, f"must be {self.words}", "the URL is not shown: it may hold a password")
        if url.scheme in ("redis", "rediss") and not url.hostname:
            return reading.problem(place, "the URL names no host", "write redis://127.0.0.1:6379/0")
        return text.value

    def schema(self) -> Schema:
        return {"type": "string", "pattern": rf"^(?:{'|'.join(self._schemes)})://|\$\{{"}

    @property
    def words(self) -> str:
        return "a URL, " + " or ".join(f"`{scheme}://…`" for scheme in self._schemes)


class ListenHost(Kind[str]):
    """What to listen on: an address of this machine, or `localhost`."""

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        host = text.value.strip("[]").lower()
        if not _is_host(host):
            return reading.problem(place, f"must be {self.words}, not {place.shown}")
        return host

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}

    @property
    def words(self) -> str:
        return "an IP address or host name of this machine (`0.0.0.0` for all, `::` for IPv6)"


class ServerName(Kind[str]):
    """The name that a server's certificate is for, and that is asked for in the handshake (SNI)."""

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        name = text.value.lower()
        if not _is_host(name):
            return reading.problem(place, f"must be {self.words}, not {place.shown}")
        return name

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}

    @property
    def words(self) -> str:
        return "a DNS name or an IP address"


class RouteHost(Kind[str]):
    """The host of a request: exact, or `*.` and a suffix. Lower case, without a port."""

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        host = text.value.lower()
        if not host.isascii():
            return reading.problem(place, f"must be {self.words}", "write it as it is sent: xn--…, punycode")
        if _HOST_NAME.fullmatch(host.removeprefix("*.")) is None:
            mend = "leave the port out" if re.search(r":[0-9]+$", host) else None
            return reading.problem(place, f"must be {self.words}, not {place.shown}", mend)
        return host

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^(?:\*\.)?[A-Za-z0-9._-]+$|\$\{"}

    @property
    def words(self) -> str:
        return "a host such as `api.example.com` or `*.example.com`"


class RoutePath(Kind[str]):
    """The path of a route: exact, with `{parameters}`, or ending in `/**`."""

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        try:
            parse_template(text.value)
        except TemplateError as error:
            if text.expanded:
                return reading.problem(place, f"must be {self.words}, with the environment's values put in")
            return reading.problem(place, error.message, error.mend)
        return text.value

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^/|\$\{"}

    @property
    def words(self) -> str:
        return "a path: `/v1/clients`, `/v1/clients/{id}` or `/v1/clients/**`"


class Directory(Kind[str]):
    """A folder, which is made when it is first used."""

    _WORDS: Final = "a folder, relative to the configuration's folder"

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        if not text.value or "\0" in text.value:
            return reading.problem(place, f"must be {self.words}")
        path = reading.path(place, text.value)
        return path if isinstance(path, Refused) else str(path)

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}

    @property
    def words(self) -> str:
        return self._WORDS


def _is_host(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        # Digits and dots alone would be taken for an address by some resolvers: 127.1, 2130706433.
        return _HOST_NAME.fullmatch(text) is not None and re.fullmatch(r"[0-9.]+", text) is None
    return not isinstance(address, IPv6Address) or address.scope_id is None
