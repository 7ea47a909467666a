"""`ostiary sign`: the headers, or the whole curl line, that sign a request."""

from __future__ import annotations

import os
import shlex
import sys
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import click

from ostiary.core.credentials import checksum_holds, is_secret_format
from ostiary.core.http_signing import sign_http_request
from ostiary.core.model import Scheme
from ostiary.core.signing import sign_request, text_of_hmac

_SECRET_VARIABLE = "OSTIARY_SECRET"  # noqa: S105  the name of the variable
_KEY_ID_VARIABLE = "OSTIARY_KEY_ID"
_JSON = ("Content-Type", "application/json")


@click.command()
@click.argument("method")
@click.argument("url")
@click.option("--key-id", envvar=_KEY_ID_VARIABLE, show_envvar=True, required=True, help="The id of the key.")
@click.option(
    "--scheme",
    type=click.Choice([Scheme.HMAC.value, Scheme.HMAC_BODY.value, Scheme.HTTP_SIGNATURE.value]),
    default=Scheme.HMAC.value,
    show_default=True,
    help="hmac signs the whole request, hmac-body its body alone, http-signature what RFC 9421 says.",
)
@click.option("--body", "-d", "body", default="", help="The body, or @FILE for the bytes of a file, or @- for stdin.")
@click.option(
    "--header",
    "-H",
    "sent",
    multiple=True,
    help="A header that is sent besides, 'Name: value', for --cover and --curl.",
)
@click.option(
    "--cover", multiple=True, help="What http-signature covers besides: @authority, or a header by its lower-case name."
)
@click.option("--expires-in", type=click.IntRange(min=1), help="Seconds until an http-signature is good no more.")
@click.option(
    "--digest",
    type=click.Choice(["sha-256", "sha-512"]),
    default="sha-256",
    show_default=True,
    help="What http-signature covers a body by.",
)
@click.option("--curl", "as_curl", is_flag=True, help="Print a curl line to paste instead of the headers.")
@click.option(
    "--explain", is_flag=True, help="Print the text that is signed, to compare it with that of your own program."
)
@click.option("--timestamp", type=click.IntRange(min=0), help="Unix seconds; now, if not given.")
@click.option("--nonce", help="16 to 64 of A-Z, a-z, 0-9, - and _; a random one, if not given.")
@click.option(
    "--secret-file",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="A file that holds the secret.",
)
def sign(
    method: str,
    url: str,
    key_id: str,
    scheme: str,
    body: str,
    sent: tuple[str, ...],
    cover: tuple[str, ...],
    expires_in: int | None,
    digest: str,
    as_curl: bool,
    explain: bool,
    timestamp: int | None,
    nonce: str | None,
    secret_file: Path | None,
) -> None:
    """Print the headers that sign METHOD URL.

    The URL is signed exactly as it is written here: nothing is encoded or put in order. Send it unchanged.

    The secret is read from --secret-file, else from OSTIARY_SECRET, else asked for without echo. It can't be given as
    an argument: every user of a machine can read the arguments of every process, and shells keep them in their history.

    \b
    Example:
      export OSTIARY_KEY_ID=ak_test_...
      ostiary sign GET 'http://127.0.0.1:8080/v1/clients?page=2' --curl
      ostiary sign POST http://127.0.0.1:8080/v1/clients -d @client.json --secret-file key.secret
      ostiary sign GET http://127.0.0.1:8080/v1/clients --scheme http-signature --cover @authority --curl
      ostiary sign GET http://127.0.0.1:8080/v1/clients --explain --timestamp 1764421200 --nonce 0123456789abcdef
    """
    if is_secret_format(key_id):
        raise click.UsageError(
            "--key-id was given a secret (sk_...); it wants the id (ak_...). Others may have seen it."
        )
    if as_curl and body == "@-":
        raise click.UsageError("curl can't read stdin once more; save the body and use --body @FILE with --curl.")
    method = method.upper()  # methods are case-sensitive, and clients send them in capitals
    payload = _body(body)
    secret = _secret(secret_file)
    others = [_header(line) for line in sent]
    try:
        target = request_target(url)
        if scheme == Scheme.HTTP_SIGNATURE.value:
            headers, text = sign_http_request(
                key_id=key_id,
                secret=secret,
                method=method,
                url=url,
                target=target,
                body=payload,
                headers=_all_sent(others, body, as_curl=as_curl),
                covered=cover,
                created=timestamp,
                expires_seconds=expires_in,
                nonce=nonce,
                digest=digest,
            )
        else:
            if cover or expires_in is not None:
                raise ValueError("--cover and --expires-in are for --scheme http-signature")
            headers = sign_request(
                key_id=key_id,
                secret=secret,
                method=method,
                target=target,
                body=payload,
                scheme=Scheme(scheme),
                timestamp=timestamp,
                nonce=nonce,
            )
            text = text_of_hmac(method, target, payload, headers) if scheme == Scheme.HMAC.value else ""
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    if explain:
        click.echo(_explanation(text, payload))
    elif as_curl:
        click.echo(_curl_line(method, url, dict(others) | headers, body))
    else:
        for name, value in headers.items():
            click.echo(f"{name}: {value}")


def request_target(url: str) -> str:
    """The path and `?query` of `url` exactly as written, `/` for no path. Raises ValueError for what is not an http URL."""
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise ValueError("the URL must be visible ASCII; percent-encode blanks and other characters")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError("the URL must begin with http:// or https:// and a host")
    if "#" in url:
        raise ValueError("the URL must have no fragment (#...): it is not sent, so it can't be signed")
    # Not put together from `parts`: urlsplit drops an empty query.
    after_authority = url.partition("://")[2][len(parts.netloc) :]
    return after_authority if after_authority.startswith("/") else f"/{after_authority}"


def _secret(secret_file: Path | None) -> bytes:
    if secret_file is not None:
        secret = secret_file.read_bytes().strip()
    elif _SECRET_VARIABLE in os.environ:
        secret = os.environ[_SECRET_VARIABLE].strip().encode()
    else:
        secret = click.prompt("Secret", hide_input=True, err=True).strip().encode()
    if not secret:
        raise click.UsageError("the secret is empty.")
    if is_secret_format(secret) and not checksum_holds(secret):
        raise click.UsageError("the secret has a typing error: its checksum does not hold. Copy it again.")
    return secret


def _body(body: str) -> bytes:
    if body == "@-":
        return sys.stdin.buffer.read()
    if body.startswith("@"):
        try:
            return Path(body[1:]).read_bytes()
        except OSError as error:
            raise click.UsageError(f"the body can't be read from {body[1:]}: {error.strerror}.") from None
    return body.encode()


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or not line.isprintable():
        raise click.UsageError(f"--header {line!r} is not 'Name: value'.")
    return name, value.strip()


def _all_sent(others: list[tuple[str, str]], body: str, *, as_curl: bool) -> list[tuple[str, str]]:
    """The headers that may be covered: those given, and the type of the body that the curl line would send."""
    if as_curl and body and not any(name.lower() == "content-type" for name, _ in others):
        return [*others, _JSON]
    return others


def _explanation(text: str, payload: bytes) -> str:
    """The text, line by line as it is signed, and the hash by which another program's text is compared with it."""
    if not text:  # hmac-body
        return f"Signed is the body alone: {len(payload)} bytes, whose SHA-256 is {sha256(payload).hexdigest()}."
    octets = text.encode()
    return (
        f"Signed are these {len(octets)} bytes, with one newline between the lines and none at the end; "
        f"their SHA-256 is {sha256(octets).hexdigest()}.\n\n{text}"
    )


def _curl_line(method: str, url: str, headers: dict[str, str], body: str) -> str:
    # --path-as-is: curl would resolve dot segments, and -g (no globbing) would else read [] and {} as patterns.
    words = ["curl", "-sS", "-g", "--path-as-is"]
    words += ["--head"] if method == "HEAD" else ["-X", method]
    for name, value in headers.items():
        words += ["-H", f"{name}: {value}"]
    if body:
        # --data-binary sends the bytes as they are; -d would drop the newlines of a file.
        if not any(name.lower() == "content-type" for name in headers):
            words += ["-H", f"{_JSON[0]}: {_JSON[1]}"]
        words += ["--data-binary", body]
    return shlex.join([*words, url])
