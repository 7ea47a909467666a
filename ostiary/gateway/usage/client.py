"""What is recorded of a client: the columns `ip`, `country`, `ip_hash` and `user_agent`, as the configuration wants them.

Made once for each address and agent, and remembered: what is left out, cut, hashed or looked up costs a call nothing."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable
from typing import Final

from ostiary.core.usage import AddressRecording, AgentRecording
from ostiary.gateway.usage.columns import NULL, clean, field

USER_AGENT_BYTES_MAX: Final = 512  # browsers send up to about 300; the rest is noise or mischief

# How many addresses and user agents are remembered: beyond it everything is forgotten and learnt again, which an endless
# stream of new ones makes a 3 us affair per call. 4096 of each are at most about 3 MB.
REMEMBERED_MAX: Final = 4096

# What is left of a truncated address: as a rule a street or a company, not a household.
_PREFIX_IPV4: Final = 24
_PREFIX_IPV6: Final = 48
_HASH_BYTES: Final = 16  # enough that two addresses of one day never share a hash


class ClientFields:
    """`addresses` and `agents` are what was learnt: the encoded columns by what the client was. Another day, another salt or
    another database is another `ClientFields`. `country` gives two letters or None for an address; `salt` is needed for
    hashes alone."""

    def __init__(
        self,
        *,
        address: AddressRecording = AddressRecording.FULL,
        agent: AgentRecording = AgentRecording.FULL,
        country: Callable[[str], str | None] | None = None,
        salt: bytes = b"",
    ) -> None:
        self.addresses: dict[str, bytes] = {}
        self.agents: dict[bytes | None, bytes] = {}
        self._address = address
        self._agent = agent
        self._country = country
        self._salt = salt

    def learn(self, ip: str, user_agent: bytes | None) -> tuple[bytes, bytes]:
        """The columns of `ip` (three) and of `user_agent`, for a client not in the memories."""
        address_field, agent_field = self._address_columns(ip), self._agent_column(user_agent)
        if len(self.addresses) >= REMEMBERED_MAX:
            self.addresses.clear()
        if len(self.agents) >= REMEMBERED_MAX:
            self.agents.clear()
        if len(ip) <= 64 and (user_agent is None or len(user_agent) <= USER_AGENT_BYTES_MAX):
            self.addresses[ip] = address_field
            self.agents[user_agent] = agent_field
        return address_field, agent_field

    def _address_columns(self, text: str) -> bytes:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return NULL + NULL + NULL
        country = NULL
        if self._country is not None and (found := self._country(str(address))) is not None:
            country = field(found.encode())
        if self._address == AddressRecording.FULL:
            return _inet(address.packed, address.max_prefixlen) + country + NULL
        if self._address == AddressRecording.TRUNCATED:
            prefix = _PREFIX_IPV4 if address.version == 4 else _PREFIX_IPV6
            kept = address.packed[: prefix // 8]
            return _inet(kept.ljust(len(address.packed), b"\0"), prefix) + country + NULL
        if self._address == AddressRecording.HASHED:
            digest = hmac.digest(self._salt, address.packed, "sha256")[:_HASH_BYTES]
            return NULL + country + field(digest)
        return NULL + country + NULL

    def _agent_column(self, user_agent: bytes | None) -> bytes:
        if user_agent is None or self._agent == AgentRecording.NONE:
            return NULL
        if self._agent == AgentRecording.PRODUCT:
            user_agent = user_agent[:USER_AGENT_BYTES_MAX].strip().partition(b" ")[0]
        return field(clean(user_agent, USER_AGENT_BYTES_MAX))


def _inet(packed: bytes, prefix: int) -> bytes:
    """Postgres' `inet`: family (2 or 3, its own numbers), prefix length, is it a cidr, length, address."""
    return field(bytes((2 if len(packed) == 4 else 3, prefix, 0, len(packed))) + packed)
