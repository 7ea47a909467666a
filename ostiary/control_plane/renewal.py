"""Certificates that are renewed while the control plane runs: its file is read again when one of them has changed, or itself,
and what it says of TLS and of client certificates takes effect. All else waits for a restart."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from ostiary.control_plane.http.certificates import ClientCertificates
from ostiary.control_plane.http.doors import Doors
from ostiary.control_plane.http.listener import Listener
from ostiary.core.config import load_file
from ostiary.core.model import Configuration, ControlPlaneSettings
from ostiary.followed import FileWatch, Refused, read_whole
from ostiary.tls import CertificateRefused, server_context

log = logging.getLogger("ostiary.control_plane")

# The files are looked at this often, and read when two looks agree.
POLL_SECONDS = 0.5
PROBLEMS_LOGGED_MAX = 20  # a line of the log is bounded


class Renewal:
    """`path` is the file that `configuration` was read from. What is refused changes nothing."""

    def __init__(
        self,
        path: Path,
        configuration: Configuration,
        *,
        listener: Listener,
        doors: Doors,
        certificates: ClientCertificates,
    ) -> None:
        self._path = path
        self._settings = configuration.control_plane
        self._listener = listener
        self._doors = doors
        self._certificates = certificates
        self._watch = FileWatch(path, _files(configuration.control_plane))
        self._again = False

    async def follow(self) -> None:
        """Runs until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self._watch.came_to_rest() or self._again:
                self._again = False
                self._watch.mark_read()
                await self._renew()

    async def _renew(self) -> None:
        try:
            configuration = await asyncio.to_thread(read_whole, self._path, load_file, self._watch)
            settings = configuration.control_plane
            if bool(settings.listen.tls) != bool(self._settings.listen.tls):
                raise Refused((f"{self._path}: control_plane.listen.tls: takes effect at a restart",))
            context = server_context(settings.listen.tls)
        except Refused as refused:
            self._watch.follow((*_files(self._settings), *refused.followed))
            self._refuse(refused.problems)
            return
        except CertificateRefused as refused:
            self._refuse((str(refused),))
            return
        self._watch.follow(_files(settings))
        before = self._settings
        if settings.listen.tls != before.listen.tls:
            try:
                await self._doors.change(context)
            except OSError as error:  # no descriptor is left: that passes
                self._again = True
                self._refuse((f"can't listen: {error.strerror}",))
                return
        self._settings = settings
        self._certificates.follow(settings)
        if settings.listen.tls == before.listen.tls:
            return
        if _clients(settings) != _clients(before):
            self._listener.end_connections()  # who was let in under the old authorities, or is revoked now, is asked again
        until = min(each.expires_at for each in settings.listen.tls)
        log.info("certificates_renewed", extra={"fields": {"files": list(_files(settings)), "until": round(until)}})

    def _refuse(self, problems: tuple[str, ...]) -> None:
        log.error("certificates_refused", extra={"fields": {"problems": list(problems[:PROBLEMS_LOGGED_MAX])}})


def _files(settings: ControlPlaneSettings) -> tuple[str, ...]:
    return tuple(dict.fromkeys(file for each in settings.listen.tls for file in each.files))


def _clients(settings: ControlPlaneSettings) -> object:
    return settings.listen.tls[0].clients if settings.listen.tls else None
