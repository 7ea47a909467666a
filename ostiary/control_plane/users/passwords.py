"""Passwords are kept as argon2id (RFC 9106), and hashed in threads, a few at a time: each takes 19 MiB and some
50 ms of a processor, so that guessing is dear. It would be dear for us, too, if anybody could ask for as many as they like at
once."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from ostiary.control_plane.http import Problem, ProblemCode

# What OWASP recommends (Password Storage Cheat Sheet). RFC 9106 §4 recommends 64 MiB and three passes where there is room:
# five times the work for each sign-in, on processors that API calls want.
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, hash_len=32, salt_len=16)

# A hash of these parameters that no password has: what an unknown address is held against, so that it takes as long.
_NOBODY: Final = "$argon2id$v=19$m=19456,t=2,p=1$b3N0aWFyeS1ub2JvZHktMQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

AT_ONCE = 2  # processors, rather than memory, are what is short
# Some two seconds of waiting; beyond, a caller is better told to come back.
WAITING_MAX = 32

ResultT = TypeVar("ResultT")


class Passwords:
    """Raises Problem `overloaded` when too many are being hashed already."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def hashed(self, password: str) -> str:
        return await self._in_thread(lambda: _HASHER.hash(_normal(password)))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether this is the password of `stored`; of None it never is, and to find that out takes as long."""
        return await self._in_thread(lambda: _matches(stored or _NOBODY, password))

    @staticmethod
    def is_outdated(stored: str) -> bool:
        """Whether it was hashed with other parameters than new ones are."""
        return _HASHER.check_needs_rehash(stored)

    async def _in_thread(self, work: Callable[[], ResultT]) -> ResultT:
        if self._waiting >= WAITING_MAX:
            raise Problem(ProblemCode.OVERLOADED, headers=[("Retry-After", "2")])
        self._waiting += 1
        try:
            async with self._room:
                return await asyncio.to_thread(work)
        finally:
            self._waiting -= 1


def _matches(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, _normal(password))
    except (VerificationError, InvalidHashError):
        return False


def _normal(password: str) -> bytes:
    """The same characters are the same bytes, however a keyboard makes them (NIST SP 800-63B-4 §3.1.1.2)."""
    return unicodedata.normalize("NFKC", password).encode()
