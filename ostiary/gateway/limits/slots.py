"""Redis Cluster: in which of its slots a name lies, which master has which slots, and where a refusal points to.

Redis Cluster specification, https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SLOTS: Final = 16384


def slot_of(name: str) -> int:
    """CRC-16 (XMODEM) of the hash tag: what stands in the first braces, if anything does; else of the whole name."""
    begin = name.find("{") + 1
    if begin:
        end = name.find("}", begin)
        if end > begin:
            name = name[begin:end]
    return binascii.crc_hqx(name.encode(), 0) & (SLOTS - 1)


def one_slot(names: Sequence[str]) -> int:
    """The slot that all of them lie in; -1 if there are several."""
    slots = {slot_of(name) for name in names}
    return slots.pop() if len(slots) == 1 else -1


@dataclass(frozen=True, slots=True)
class Redirection:
    """`moved`: the slot is there from now on. Else (ASK) only this command is to be asked there: the slot is on its way.
    `host` is empty where the server names none: the one that was asked."""

    moved: bool
    slot: int
    host: str
    port: int


def redirection(refusal: str) -> Redirection | None:
    """What "MOVED 3999 127.0.0.1:6381" or "ASK 3999 :6381" says. None for any other refusal."""
    words = refusal.split(" ")
    if len(words) != 3 or words[0] not in ("MOVED", "ASK"):
        return None
    host, _, port = words[2].rpartition(":")
    if not (words[1].isdigit() and port.isdigit() and int(words[1]) < SLOTS):
        return None
    return Redirection(words[0] == "MOVED", int(words[1]), _named(host), int(port))


@dataclass(frozen=True, slots=True)
class SlotRange:
    """`first` to `last`, both included, and the master that has them; `host` may be empty as in Redirection."""

    first: int
    last: int
    host: str
    port: int


def slot_ranges(reply: object) -> list[SlotRange]:
    """The reply to CLUSTER SLOTS. Raises ValueError for anything else.

    CLUSTER SHARDS says the same in more words, and only from Redis 7.0 on."""
    try:
        return [_range(entry) for entry in reply]  # type: ignore[attr-defined]  # whatever it is, the errors are caught
    except (TypeError, AttributeError, IndexError, UnicodeError) as error:
        raise ValueError("the reply to CLUSTER SLOTS is none") from error


def _range(entry: list[object]) -> SlotRange:
    first, last, master = entry[:3]
    if not (
        isinstance(first, int) and isinstance(last, int) and isinstance(master, list) and 0 <= first <= last < SLOTS
    ):
        raise ValueError(f"no range of slots: {entry!r:.100}")
    host, port = master[0], master[1]
    if not isinstance(port, int):
        raise ValueError(f"no port: {entry!r:.100}")
    return SlotRange(first, last, _named(host.decode() if isinstance(host, bytes) else ""), port)


def _named(host: str) -> str:
    """A server that is to be called by a name it does not have says "?"."""
    return "" if host == "?" else host
