"""One fetch of an issuer's key document: bounded in time and size, verified, and from nowhere else than where it is
configured.

aiohttp stands here alone, and is imported when there is an issuer to fetch from."""

from __future__ import annotations

from typing import Final

import aiohttp

from ostiary.core.issuers import KeysAt
from ostiary.core.key_set import DOCUMENT_BYTES_MAX
from ostiary.tls import CertificateRefused, configured_context

FETCH_SECONDS: Final = 5.0


class FetchFailed(Exception):
    """The text says why, for log and status; it holds nothing that the other side sent but its status."""


async def fetch_document(source: KeysAt) -> bytes:
    """The document as it came. Raises FetchFailed.

    Redirects are not followed, to whichever host: where keys come from is for the configuration alone to say. Nothing is
    unpacked, so what is read is what came over the network."""
    headers = {
        "Accept": "application/jwk-set+json, application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "ostiary",
    }
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=configured_context(source.ca, source.ca_pem), force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
                auto_decompress=False,
                trust_env=False,
            ) as session,
            session.get(source.url, allow_redirects=False, headers=headers) as response,
        ):
            if 300 <= response.status < 400:
                raise FetchFailed(f"answers {response.status}, a redirect; configure the URL it leads to")
            if response.status != 200:
                raise FetchFailed(f"answers {response.status}")
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise FetchFailed("answers with a content coding that was not asked for")
            document = bytearray()
            async for chunk in response.content.iter_any():
                document += chunk
                if len(document) > DOCUMENT_BYTES_MAX:
                    raise FetchFailed(f"answers with more than {DOCUMENT_BYTES_MAX >> 10} KiB")
            return bytes(document)
    except CertificateRefused as error:
        raise FetchFailed(str(error)) from error
    except TimeoutError as error:
        raise FetchFailed(f"no whole answer within {FETCH_SECONDS:g} s") from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise FetchFailed("its certificate does not verify") from error
    except aiohttp.ClientConnectorError as error:
        raise FetchFailed(f"can't be reached: {error.os_error.strerror or type(error.os_error).__name__}") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchFailed(f"can't be fetched: {type(error).__name__}") from error
