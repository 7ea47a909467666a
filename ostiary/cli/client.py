"""The control-plane API from a shell: one small client, and the options that all its commands have."""

from __future__ import annotations

import functools
import json
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

import click

from ostiary.cli.client_tls import TlsFiles
from ostiary.tls import context_towards_servers

DEFAULT_URL = "http://127.0.0.1:8081"
# The first that is set: a token of whatever kind, or the configuration's, by the name that the control plane reads, too.
TOKEN_VARIABLES = ("OSTIARY_TOKEN", "OSTIARY_OPERATOR_TOKEN")

# The API bounds its own work to 17 s (see its reading and dispatching); beyond that, it is gone.
TIMEOUT_SECONDS = 20.0
# A hundred keys with all their lists full are 4 MB.
ANSWER_BYTES_MAX = 16 * 1024 * 1024
PAGE_ITEMS = 100
DOWNLOAD_BYTES = 64 * 1024

# What OpenSSL calls the alerts by which a server refuses a client for its certificate (RFC 8446 §6.2).
_ABOUT_OUR_CERTIFICATE = frozenset(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "TLSV1_ALERT_UNKNOWN_CA",
    }
)

Document = dict[str, Any]
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class ApiError(click.ClickException):
    """The API refused, or could not be asked. Exit status 1. `problem` is its problem document, empty without one."""

    def __init__(self, message: str, problem: Document | None = None) -> None:
        super().__init__(message)
        self.problem = problem or {}


@dataclass(frozen=True, slots=True)
class Listing:
    """`items` are the first of `total`."""

    items: list[Document]
    total: int


@dataclass(frozen=True, slots=True)
class Address:
    """Where the API is. `prefix` is the path before /api/v1, for an API behind a proxy."""

    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def shown(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}{self.prefix}"

    @property
    def crosses_a_network_in_the_clear(self) -> bool:
        if self.scheme == "https" or self.host == "localhost":
            return False
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return True


def parse_address(url: str) -> Address:
    """Raises ValueError, saying what is wrong and never quoting the URL: it may hold a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be http://host:port or https://host:port")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must not have a user, a query or a fragment")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Address(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))


@dataclass(frozen=True, slots=True)
class Client:
    """Calls with a token, without any if it is empty. Follows no redirect: the token goes to the address that was given, and
    no other. `tls` is how that is known, and we to it; None for what the system trusts."""

    address: Address
    token: str = field(repr=False)
    tls: ssl.SSLContext | None = None

    def get(self, path: str, parameters: Mapping[str, object] | None = None) -> Document:
        """Raises ApiError."""
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        return self._call("GET", path + (f"?{urlencode(given)}" if given else ""), None)

    def post(self, path: str, document: Mapping[str, object]) -> Document:
        """Fields that are None are left out. Raises ApiError."""
        given = {name: value for name, value in document.items() if value is not None}
        return self._call("POST", path, json.dumps(given).encode())

    def put(self, path: str, document: Mapping[str, object]) -> Document:
        """Fields that are None are left out. Raises ApiError."""
        given = {name: value for name, value in document.items() if value is not None}
        return self._call("PUT", path, json.dumps(given).encode())

    def patch(self, path: str, document: Mapping[str, object]) -> Document:
        """Fields that are None are sent as null. Raises ApiError."""
        return self._call("PATCH", path, json.dumps(document).encode())

    def delete(self, path: str, parameters: Mapping[str, object] | None = None) -> Document:
        """Raises ApiError."""
        return self._call("DELETE", path + (f"?{urlencode(parameters)}" if parameters else ""), None)

    def items(self, path: str, parameters: Mapping[str, object], *, limit: int) -> Listing:
        """The first `limit` items of a list, over as many pages as that takes. Raises ApiError."""
        items: list[Document] = []
        cursor: str | None = None
        while True:
            size = min(PAGE_ITEMS, limit - len(items))
            page = self.get(path, {**parameters, "limit": size, "cursor": cursor})
            items += page["data"]
            cursor = page["next_cursor"]
            if cursor is None or len(items) >= limit:
                return Listing(items, page["total"])

    def download(self, path: str, parameters: Mapping[str, object], to: BinaryIO) -> None:
        """Writes an answer of any length as it comes. Raises ApiError, also when its end is missing."""
        given = {name: value for name, value in parameters.items() if value is not None}
        connection = self._connection()
        headers = {"Accept": "text/csv", **self._authorization()}
        try:
            try:
                connection.request("GET", f"{self.address.prefix}/api/v1{path}?{urlencode(given)}", headers=headers)
                response = connection.getresponse()
            except (OSError, HTTPException) as error:
                raise self._no_answer(error) from error
            try:
                if response.status >= 300:
                    self._document(response, response.read(ANSWER_BYTES_MAX + 1))
                while chunk := response.read(DOWNLOAD_BYTES):
                    to.write(chunk)
            except (OSError, HTTPException) as error:
                raise ApiError(f"{self.address.shown} broke off; what was printed is not all") from error
        finally:
            connection.close()

    def _no_answer(self, error: Exception) -> ApiError:
        if isinstance(error, ssl.SSLError):
            return ApiError(f"{self.address.shown} and we do not agree on TLS ({_told_of_tls(error)})")
        reason = getattr(error, "strerror", None) or type(error).__name__
        return ApiError(
            f"no answer from {self.address.shown} ({reason}); is the control plane running there? See --url"
        )

    def _call(self, method: str, path: str, body: bytes | None) -> Document:
        connection = self._connection()
        headers = {"Accept": "application/json", **self._authorization()}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, f"{self.address.prefix}/api/v1{path}", body=body, headers=headers)
            response = connection.getresponse()
            text = response.read(ANSWER_BYTES_MAX + 1)
        except (OSError, HTTPException) as error:
            raise self._no_answer(error) from error
        finally:
            connection.close()
        return self._document(response, text)

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def _connection(self) -> HTTPConnection:
        host, port = self.address.host, self.address.port
        if self.address.scheme == "https":
            context = self.tls or context_towards_servers()
            return HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)
        return HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)

    def _document(self, response: HTTPResponse, text: bytes) -> Document:
        try:
            if len(text) > ANSWER_BYTES_MAX:
                raise ValueError
            document = json.loads(text)
            if not isinstance(document, dict):
                raise ValueError
        except ValueError as error:
            raise ApiError(
                f"{self.address.shown} answered {response.status} without a document: that is no control plane"
            ) from error
        if response.status >= 300:
            raise ApiError(_told(response.status, document), document)
        return cast("Document", document)


def _told_of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate: {error.verify_message}; see --ca"
    if error.reason in _ABOUT_OUR_CERTIFICATE:
        return "it does not take our certificate, or wants one; see --client-certificate"
    return error.reason or type(error).__name__


def _told(status: int, problem: Document) -> str:
    lines = [f"{problem.get('detail') or problem.get('title') or 'refused'} ({status} {problem.get('code', '')})"]
    lines += [f"  {error['field'] or 'body'}: {error['problem']}" for error in problem.get("errors", ())]
    if "about" in problem:
        lines.append(f"  see {problem['about']}")
    return "\n".join(lines)


def segment(text: str) -> str:
    """`text` as one segment of a path, whatever is in it."""
    return quote(text, safe="")


def open_command(function: FunctionT) -> FunctionT:
    """Adds --url and its TLS; the command gets a Client without a token as its first argument."""

    @_connection_options
    @functools.wraps(function)
    def command(*arguments: Any, url: str, tls: TlsFiles, **options: Any) -> Any:
        return function(_client(url, "", "the password", tls), *arguments, **options)

    return cast("FunctionT", command)


def api_command(function: FunctionT) -> FunctionT:
    """Adds --url, its TLS and --token-file; the command gets a Client as its first argument. The token comes from a file or
    the environment and never from the arguments, which every user of the machine can read."""

    @_connection_options
    @click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"A file with the token; without it, the token is taken from {' or '.join(TOKEN_VARIABLES)}.",
    )
    @functools.wraps(function)
    def command(*arguments: Any, url: str, tls: TlsFiles, token_file: Path | None, **options: Any) -> Any:
        return function(_client(url, _token(token_file), "the token", tls), *arguments, **options)

    return cast("FunctionT", command)


_PEM_FILE = click.Path(dir_okay=False, path_type=Path)


def _connection_options(function: FunctionT) -> FunctionT:
    """The command gets `url` and `tls`."""

    @click.option(
        "--url",
        envvar="OSTIARY_URL",
        default=DEFAULT_URL,
        show_default=True,
        help="The control plane [env: OSTIARY_URL].",
    )
    @click.option(
        "--ca",
        envvar="OSTIARY_CA",
        type=_PEM_FILE,
        help="Whose certificates the control plane may have, PEM; without it, the system's [env: OSTIARY_CA].",
    )
    @click.option(
        "--client-certificate",
        envvar="OSTIARY_CLIENT_CERTIFICATE",
        type=_PEM_FILE,
        help="A certificate to show, PEM, for privileged calls [env: OSTIARY_CLIENT_CERTIFICATE].",
    )
    @click.option(
        "--client-key",
        envvar="OSTIARY_CLIENT_KEY",
        type=_PEM_FILE,
        help="Its key, PEM, if it is in a file of its own [env: OSTIARY_CLIENT_KEY].",
    )
    @functools.wraps(function)
    def command(
        *arguments: Any, ca: Path | None, client_certificate: Path | None, client_key: Path | None, **options: Any
    ) -> Any:
        return function(*arguments, tls=TlsFiles(ca, client_certificate, client_key), **options)

    return cast("FunctionT", command)


def _client(url: str, token: str, secret: str, tls: TlsFiles) -> Client:
    """`secret` is what is sent. Raises click.UsageError."""
    try:
        address = parse_address(url)
    except ValueError as error:
        raise click.UsageError(f"--url {error}") from error
    if address.crosses_a_network_in_the_clear:
        click.echo(f"warning: {secret} crosses the network in the clear; use https", err=True)
    return Client(address, token, tls.context() if address.scheme == "https" else None)


def json_option(function: FunctionT) -> FunctionT:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(function)


def limit_option(function: FunctionT) -> FunctionT:
    return click.option(
        "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many items at most."
    )(function)


def _token(token_file: Path | None) -> str:
    try:
        if token_file is not None:
            token = token_file.read_text(encoding="utf-8")
        else:
            token = next((os.environ[name] for name in TOKEN_VARIABLES if os.environ.get(name)), "")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise click.UsageError(f"--token-file can't be read: {reason}") from error
    token = token.strip()
    if not token:
        raise click.UsageError(f"no token: set {' or '.join(TOKEN_VARIABLES)}, or give --token-file")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise click.UsageError("the token has characters that no token has; is it the right file?")
    return token
