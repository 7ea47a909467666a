"""From a token or a cookie to who calls. What somebody may do is read now, from their row; nothing is remembered in between,
so that a role that was taken away, a session that was ended and a user who was disabled are gone with the next call."""

from __future__ import annotations

import logging

from pydantic import TypeAdapter, ValidationError

from ostiary.control_plane.http import Transactions
from ostiary.control_plane.http.access import Actor
from ostiary.control_plane.sign_in import store
from ostiary.control_plane.sign_in.access_tokens import AccessTokens
from ostiary.control_plane.sign_in.outside_issuer import OutsideClaims, OutsideIssuer
from ostiary.control_plane.sign_in.service import BROWSER_IDLE_SECONDS, cookie_sha256
from ostiary.control_plane.users import store as users_store
from ostiary.control_plane.users.model import Email
from ostiary.core.tokens import TokenRefused, parse_token

_log = logging.getLogger("ostiary.control_plane.sign_in")

_EMAIL: TypeAdapter[str] = TypeAdapter(Email)


class Authentication:
    """Raises Problem when it can't tell now: the database is away, or an issuer's keys can't be had."""

    def __init__(
        self, *, transactions: Transactions, access_tokens: AccessTokens, outside: OutsideIssuer | None
    ) -> None:
        self._transactions = transactions
        self._access_tokens = access_tokens
        self._outside = outside

    async def of_cookie(self, value: str) -> Actor | None:
        async with self._transactions.open(reads=True) as connection:
            found = await store.actor_of_cookie(connection, cookie_sha256(value))
        if found is None or found.actor.session_id is None:
            return None
        if found.unused:
            async with self._transactions.open() as connection:
                await store.note_use(connection, found.actor.session_id, idle_seconds=BROWSER_IDLE_SECONDS)
        return found.actor

    async def of_token(self, token: str) -> Actor | None:
        octets = token.encode("utf-8", "surrogateescape")
        if octets.count(b".") != 2:
            return None
        try:
            parsed = parse_token(octets)
            # The issuer is chosen by what the token says, and then has to be the one that signed it.
            if parsed.claims.get("iss") == self._access_tokens.issuer.url:
                claims = await self._access_tokens.verified(parsed, octets)
                async with self._transactions.open(reads=True) as connection:
                    found = await store.actor_of_program(connection, claims.session_id, claims.user_id)
                return None if found is None else found.actor
            if self._outside is not None and parsed.claims.get("iss") == self._outside.url:
                return await self._of_outside(await self._outside.verified(parsed, octets))
            raise TokenRefused("iss is no issuer of this control plane's")
        except TokenRefused as error:
            _log.warning("access_token_refused", extra={"fields": {"reason": str(error)}})
            return None

    async def _of_outside(self, claims: OutsideClaims) -> Actor | None:
        async with self._transactions.open(reads=True) as connection:
            found = await store.actor_of_identity(connection, claims.issuer, claims.subject)
        if found is None and await self._link(claims):
            async with self._transactions.open(reads=True) as connection:
                found = await store.actor_of_identity(connection, claims.issuer, claims.subject)
        return None if found is None else found.actor

    async def _link(self, claims: OutsideClaims) -> bool:
        """Finds the user by the address that the issuer vouches for, or makes one for an address that was invited.

        A password that the user has here is forgotten, and their sessions end: whoever chose it had shown an invitation, and
        not that the address is theirs."""
        try:
            email = _EMAIL.validate_python(claims.email)
        except ValidationError:
            return False
        async with self._transactions.open() as connection:
            user = await users_store.user_of_email(connection, email)
            if user is None:
                if not await store.is_invited(connection, email):
                    return False
                user = await users_store.insert(
                    connection, email=email, name=email.partition("@")[0], password_hash=None, platform_role=None
                )
            if user.disabled_at is not None:
                return False
            if await store.insert_identity(connection, claims.issuer, claims.subject, user.id):
                await store.forget_password(connection, user.id)
                await users_store.end_sessions(connection, user.id)
        return True
