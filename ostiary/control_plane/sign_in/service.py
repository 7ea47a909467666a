"""The rules of signing in: one answer and equal work whatever is wrong, a new session every time, and an end to each."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from hashlib import sha256

from ostiary.control_plane import users
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Note, Problem, ProblemCode, Transactions, invalid
from ostiary.control_plane.http.access import Actor
from ostiary.control_plane.sign_in import store
from ostiary.control_plane.sign_in.access_tokens import LIFETIME_SECONDS, AccessTokens
from ostiary.control_plane.sign_in.attempts import Attempts
from ostiary.control_plane.sign_in.model import (
    AccessTokenPair,
    Credentials,
    Me,
    PasswordChange,
    RecordedSession,
    Session,
    SessionKind,
    SessionPage,
    SignedIn,
    SignedOut,
)
from ostiary.control_plane.users import store as users_store
from ostiary.control_plane.users.password_rules import weakness
from ostiary.core.credentials import TokenKind, generate_token, secret_sha256

_log = logging.getLogger("ostiary.control_plane.sign_in")

# NIST SP 800-63B-4 §2.2.3: an hour without activity, a day in all.
BROWSER_IDLE_SECONDS = 3600
BROWSER_SECONDS = 24 * 3600
# A program that is started once a month keeps its session; each lives a quarter of a year.
PROGRAM_IDLE_SECONDS = 30 * 24 * 3600
PROGRAM_SECONDS = 90 * 24 * 3600
# Of one user; the oldest end.
SESSIONS_MAX = 50


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a call comes from, as it is shown to the user among their sessions."""

    address: str | None
    user_agent: str | None


@dataclass(frozen=True, slots=True)
class Cookie:
    """`secure`: over TLS alone, and then by a name that no other host of the domain can set, nor a page without TLS
    (RFC 6265bis §4.1.3.2). Without TLS, on this machine itself, browsers would refuse that name."""

    secure: bool

    @property
    def name(self) -> str:
        return "__Host-ostiary_session" if self.secure else "ostiary_session"

    def set(self, value: str) -> str:
        return f"{self.name}={value}; Path=/; Max-Age={BROWSER_SECONDS}; HttpOnly; SameSite=Strict{self._secure}"

    def removed(self) -> str:
        return f"{self.name}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict{self._secure}"

    @property
    def _secure(self) -> str:
        return "; Secure" if self.secure else ""


class SignIn:
    """Opens its own transactions, but for what takes a connection. Every method raises Problem for what it refuses."""

    def __init__(
        self,
        *,
        transactions: Transactions,
        passwords: users.Passwords,
        access_tokens: AccessTokens,
        key_prefix: str,
    ) -> None:
        self._transactions = transactions
        self._passwords = passwords
        self._access_tokens = access_tokens
        self._key_prefix = key_prefix
        self._attempts = Attempts(transactions)

    async def by_browser(
        self, credentials: Credentials, origin: Origin, *, cookie_before: str | None, note: Note
    ) -> tuple[SignedIn, str]:
        """And the secret for the cookie. Whatever the browser was signed in by before is over: a session that somebody
        slipped into it never becomes its user's (OWASP, session fixation)."""
        user_id = await self._proved(credentials, origin)
        secret = secrets.token_urlsafe(32)
        async with self._transactions.open() as connection:
            if cookie_before is not None:
                await store.end_session_of_cookie(connection, cookie_sha256(cookie_before))
            session = await self._begin(connection, user_id, SessionKind.BROWSER, cookie_sha256(secret), origin)
            user = await users_store.user(connection, user_id)
            if user is None:
                raise _refused()
            await _note_begun(note, connection, session, user_id, credentials.email)
        return SignedIn(user=user, session_id=session.id, ends_at=session.ends_at), secret

    async def by_program(self, credentials: Credentials, origin: Origin, *, note: Note) -> AccessTokenPair:
        user_id = await self._proved(credentials, origin)
        refresh_token = self._new_refresh_token()
        async with self._transactions.open() as connection:
            sha = secret_sha256(refresh_token.encode())
            session = await self._begin(connection, user_id, SessionKind.PROGRAM, sha, origin)
            await _note_begun(note, connection, session, user_id, credentials.email)
        return await self._pair(user_id, session.id, refresh_token)

    async def refresh(self, token: str, *, note: Note) -> AccessTokenPair:
        """Raises Problem `credentials_invalid`; for a token that was used before, its session has ended then. That alone is
        written into the audit log: a refresh gives nobody anything that they did not have."""
        old = secret_sha256(token.encode())
        new = self._new_refresh_token()
        async with self._transactions.open() as connection:
            done = await store.replace_refresh_token(
                connection, old_sha256=old, new_sha256=secret_sha256(new.encode()), idle_seconds=PROGRAM_IDLE_SECONDS
            )
            ended = None if done is not None else await store.end_session_of_used(connection, old)
            if ended is not None:
                await note(connection, resource_id=ended, after={"ended": "a refresh token was used twice"})
        if done is None:
            if ended is not None:
                _log.warning("refresh_token_reused", extra={"fields": {"session": ended}})
            raise Problem(ProblemCode.CREDENTIALS_INVALID, "The refresh token is not valid, or not any more: sign in.")
        return await self._pair(done.user_id, done.session_id, new)

    async def sign_out(self, actor: Actor, *, note: Note) -> SignedOut:
        if actor.user_id is None or actor.session_id is None:
            return SignedOut(ended=False)
        async with self._transactions.open() as connection:
            ended = await store.end_session(connection, actor.session_id, actor.user_id)
            await note(connection, resource_id=actor.session_id, after={"ended": "by its user"})
            return SignedOut(ended=ended)

    async def change_password(self, actor: Actor, change: PasswordChange, origin: Origin, *, note: Note) -> None:
        """All other sessions of the user end: whoever has the old password may have one."""
        user_id = _require_user(actor)
        async with self._transactions.open(reads=True) as connection:
            before = await users_store.password_hash(connection, user_id)
        if before is None:
            raise Problem(ProblemCode.CONFLICT, "You sign in by an outside issuer, and have no password here.")
        await self._attempts.begin(actor.name, origin.address)
        if not await self._passwords.verify(change.current_password, before):
            raise invalid("current_password", "is not right")
        await self._attempts.succeeded(actor.name, origin.address)
        if (why := weakness(change.new_password, actor.name)) is not None:
            raise invalid("new_password", why)
        hashed = await self._passwords.hashed(change.new_password)
        async with self._transactions.open() as connection:
            if not await users_store.set_password(connection, user_id, hashed, before=before):
                raise Problem(ProblemCode.CONFLICT, "The password has been changed meanwhile.")
            await users_store.end_sessions(connection, user_id, but=actor.session_id)
            await note(connection, resource_id=user_id, after={"password": "changed"})

    async def session(self, connection: Connection, session_id: str) -> RecordedSession:
        found = await store.session(connection, session_id)
        if found is None:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such session.")
        return found

    async def me(self, connection: Connection, actor: Actor) -> Me:
        user = None if actor.user_id is None else await users_store.user(connection, actor.user_id)
        memberships = [] if actor.user_id is None else await store.memberships(connection, actor.user_id)
        return Me(
            principal=actor.principal,
            name=actor.name,
            user=user,
            platform_role=actor.platform_role,
            memberships=tuple(memberships),
        )

    async def sessions(self, connection: Connection, actor: Actor) -> SessionPage:
        found = await store.sessions_of(connection, _require_user(actor), current=actor.session_id)
        return SessionPage(data=tuple(found), next_cursor=None, total=len(found))

    async def own_session(self, connection: Connection, actor: Actor, session_id: str) -> Session:
        found = await store.sessions_of(connection, _require_user(actor), current=actor.session_id)
        session = next((each for each in found if each.id == session_id), None)
        if session is None:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such session.")
        return session

    async def end_session(self, connection: Connection, actor: Actor, session_id: str) -> SignedOut:
        if not await store.end_session(connection, session_id, _require_user(actor)):
            raise Problem(ProblemCode.NOT_FOUND, "There is no such session.")
        return SignedOut(ended=True)

    async def _proved(self, credentials: Credentials, origin: Origin) -> str:
        """The id of the user whose password this is. No connection is held while it is hashed. Raises Problem."""
        await self._attempts.begin(credentials.email, origin.address)
        async with self._transactions.open(reads=True) as connection:
            user = await store.user_of_email(connection, credentials.email)
        right = await self._passwords.verify(credentials.password, None if user is None else user.password_hash)
        if user is None or user.password_hash is None or not right or user.disabled:
            _log.warning("sign_in_refused", extra={"fields": {"client": origin.address}})
            raise _refused()
        await self._attempts.succeeded(credentials.email, origin.address)
        if self._passwords.is_outdated(user.password_hash):
            hashed = await self._passwords.hashed(credentials.password)
            async with self._transactions.open() as connection:
                await users_store.set_password(connection, user.id, hashed, before=user.password_hash)
        return user.id

    async def _begin(
        self, connection: Connection, user_id: str, kind: SessionKind, sha: bytes, origin: Origin
    ) -> Session:
        browser = kind is SessionKind.BROWSER
        session = await store.insert_session(
            connection,
            user_id=user_id,
            kind=kind,
            secret_sha256=sha,
            idle_seconds=BROWSER_IDLE_SECONDS if browser else PROGRAM_IDLE_SECONDS,
            seconds=BROWSER_SECONDS if browser else PROGRAM_SECONDS,
            address=origin.address,
            user_agent=origin.user_agent,
            sessions_max=SESSIONS_MAX,
        )
        if session is None:
            raise _refused()
        return session

    async def _pair(self, user_id: str, session_id: str, refresh_token: str) -> AccessTokenPair:
        return AccessTokenPair(
            access_token=await self._access_tokens.made(user_id=user_id, session_id=session_id),
            token_type="Bearer",  # noqa: S106  a word of RFC 6750
            expires_in=LIFETIME_SECONDS,
            refresh_token=refresh_token,
        )

    def _new_refresh_token(self) -> str:
        return generate_token(TokenKind.REFRESH, self._key_prefix)


def cookie_sha256(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogateescape")).digest()


async def _note_begun(note: Note, connection: Connection, session: Session, user_id: str, email: str) -> None:
    after = {"user_id": user_id, "kind": session.kind.value}
    await note(connection, resource_id=session.id, after=after, actor=Actor(f"user:{user_id}", email))


def _require_user(actor: Actor) -> str:
    if actor.user_id is None:
        raise Problem(
            ProblemCode.ROLE_MISSING, "This is for users who have signed in; you call by a token of the platform."
        )
    return actor.user_id


def _refused() -> Problem:
    return Problem(ProblemCode.CREDENTIALS_INVALID, "E-mail address or password is not right.")
