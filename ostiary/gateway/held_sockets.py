"""The two sockets that stay open from one program to the next (see `handover`): of callers, and of the admin listener."""

from __future__ import annotations

import socket

from ostiary.core.model import GatewaySettings
from ostiary.gateway.handover import Handover, HeldSocket
from ostiary.gateway.listening import authority, inherited, reserve


class HeldSockets:
    """`listen` holds the port, and workers listen beside it; `admin` is listened on through duplicates."""

    def __init__(self, settings: GatewaySettings, listen: socket.socket, admin: socket.socket) -> None:
        self.listen = listen
        self.admin = admin
        self._settings = settings

    @classmethod
    def reserved(cls, settings: GatewaySettings) -> HeldSockets:
        """Raises CannotListen."""
        listen, admin = settings.listen, settings.admin
        return cls(settings, reserve(listen.host, listen.port), reserve(admin.host, admin.port))

    @classmethod
    def inherited(cls, settings: GatewaySettings, handover: Handover) -> HeldSockets:
        """Whatever the addresses in `settings`: those were compared in the rehearsal."""
        return cls(settings, inherited(handover.listen.descriptor), inherited(handover.admin.descriptor))

    @property
    def port(self) -> int:
        """Of callers; the kernel's choice where 0 is configured."""
        return int(self.listen.getsockname()[1])

    def handed(self) -> tuple[HeldSocket, HeldSocket]:
        listen, admin = self._settings.listen, self._settings.admin
        return (
            HeldSocket(listen.host, listen.port, self.listen.fileno()),
            HeldSocket(admin.host, admin.port, self.admin.fileno()),
        )

    def for_operators(self) -> tuple[socket.socket, str]:
        """What the admin listener listens on, and the name of it: a descriptor of its own, so that the socket stays open
        while the listener pauses."""
        admin = self._settings.admin
        return self.admin.dup(), authority(admin.host, admin.port)

    def close(self) -> None:
        self.listen.close()
        self.admin.close()


def moved(settings: GatewaySettings, handover: Handover) -> tuple[str, ...]:
    """Names of the addresses that are not those of the sockets handed over."""
    pairs = (("gateway.listen", settings.listen, handover.listen), ("gateway.admin", settings.admin, handover.admin))
    return tuple(name for name, own, held in pairs if (own.host, own.port) != (held.host, held.port))
