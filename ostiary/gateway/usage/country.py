"""Countries by address, from a local file in MaxMind's format (GeoLite2, DB-IP, IPinfo)."""

from __future__ import annotations

import os
from pathlib import Path

# A database of cities is some 60 MB; of countries 8. Every worker holds it.
BYTES_MAX = 512 << 20


class CountryDatabaseError(Exception):
    """The file can't be used; the text says why and what to do."""


class CountryDatabase:
    """A database as it was when it was opened. It is copied into memory: a file that is overwritten in place under a mapping
    would kill the worker (SIGBUS)."""

    def __init__(self, path: Path) -> None:
        """Raises CountryDatabaseError."""
        try:
            import maxminddb
        except ImportError as error:
            raise CountryDatabaseError(
                "usage.country_database needs the package maxminddb: pip install 'ostiary[country]'"
            ) from error
        try:
            if path.stat().st_size > BYTES_MAX:
                raise CountryDatabaseError(
                    f"{path} is larger than {BYTES_MAX >> 20} MiB: that is no database of countries"
                )
            content = path.read_bytes()
            if hasattr(os, "memfd_create"):  # read by MaxMind's own C code, a tenth of the time of Python's
                fd = os.memfd_create("ostiary-country", os.MFD_CLOEXEC)
                try:
                    with os.fdopen(os.dup(fd), "wb") as file:
                        file.write(content)
                    self._reader = maxminddb.open_database(f"/proc/self/fd/{fd}")
                finally:
                    os.close(fd)
            else:
                with path.open("rb") as file:
                    self._reader = maxminddb.open_database(file, maxminddb.MODE_FD)
        except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
            reason = getattr(error, "strerror", None) or "it is not in MaxMind's format"
            raise CountryDatabaseError(f"usage.country_database {path} can't be read: {reason}") from error

    def country(self, address: str) -> str | None:
        """Two capital letters (ISO 3166-1), or None. Never raises: a damaged entry is no country."""
        try:
            found = self._reader.get(address)
        except Exception:
            # Whatever the reader finds wrong with one entry, or an IPv6 address in a database of IPv4: no call fails for it.
            return None
        if not isinstance(found, dict):
            return None
        place = found.get("country") or found.get("registered_country") or found.get("country_code")
        code = place.get("iso_code") if isinstance(place, dict) else place
        if isinstance(code, str) and len(code) == 2 and code.isascii() and code.isalpha():
            return code.upper()
        return None
