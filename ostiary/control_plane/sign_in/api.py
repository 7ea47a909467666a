"""The operations that make somebody known, and those on what they are known by."""

from __future__ import annotations

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import (
    AnyOperation,
    Audited,
    AuditedByItself,
    Call,
    Ids,
    NoBody,
    NoParameters,
    ProblemCode,
    UnboundCall,
    change_unbound,
    read,
    remove,
)
from ostiary.control_plane.sign_in.model import (
    AccessTokenPair,
    Credentials,
    Me,
    PasswordChange,
    RecordedSession,
    RefreshToken,
    Session,
    SessionPage,
    SessionPath,
    SignedIn,
    SignedOut,
)
from ostiary.control_plane.sign_in.service import Cookie, Origin, SignIn

_USER_AGENT_CHARACTERS = 200


def operations(sign_in: SignIn, cookie: Cookie) -> tuple[AnyOperation, ...]:
    async def read_session(connection: Connection, ids: Ids) -> RecordedSession:
        return await sign_in.session(connection, ids["session_id"])

    a_session = Audited(resource="session", id_from="session_id", read=read_session, record=RecordedSession)
    a_session_begun = AuditedByItself(resource="session")

    async def by_browser(call: UnboundCall[NoParameters, Credentials]) -> SignedIn:
        before = call.request.cookies.get(cookie.name)
        answer, secret = await sign_in.by_browser(call.body, _origin(call), cookie_before=before, note=call.note)
        call.answer_headers.append(("Set-Cookie", cookie.set(secret)))
        return answer

    async def sign_out(call: UnboundCall[NoParameters, NoBody]) -> SignedOut:
        answer = await sign_in.sign_out(call.caller.actor, note=call.note)
        call.answer_headers.append(("Set-Cookie", cookie.removed()))
        return answer

    async def by_program(call: UnboundCall[NoParameters, Credentials]) -> AccessTokenPair:
        return await sign_in.by_program(call.body, _origin(call), note=call.note)

    async def refresh(call: UnboundCall[NoParameters, RefreshToken]) -> AccessTokenPair:
        return await sign_in.refresh(call.body.refresh_token, note=call.note)

    async def change_password(call: UnboundCall[NoParameters, PasswordChange]) -> SignedOut:
        await sign_in.change_password(call.caller.actor, call.body, _origin(call), note=call.note)
        return SignedOut(ended=False)

    async def me(call: Call[NoParameters, NoParameters, NoBody]) -> Me:
        return await sign_in.me(call.connection, call.caller.actor)

    async def list_sessions(call: Call[NoParameters, NoParameters, NoBody]) -> SessionPage:
        return await sign_in.sessions(call.connection, call.caller.actor)

    async def get_session(call: Call[SessionPath, NoParameters, NoBody]) -> Session:
        return await sign_in.own_session(call.connection, call.caller.actor, call.path.session_id)

    async def end_session(call: Call[SessionPath, NoParameters, NoBody]) -> SignedOut:
        return await sign_in.end_session(call.connection, call.caller.actor, call.path.session_id)

    refused = (ProblemCode.CREDENTIALS_INVALID, ProblemCode.TOO_MANY_ATTEMPTS)
    return (
        change_unbound(
            "signIn",
            "/sign-in",
            tag="sign-in",
            summary="Sign a browser in, by e-mail address and password. The session is in a cookie.",
            handler=by_browser,
            audited=a_session_begun,
            body_model=Credentials,
            answer=SignedIn,
            refusals=refused,
        ),
        change_unbound(
            "signOut",
            "/sign-out",
            tag="sign-in",
            summary="End the session of this call, a browser's or a program's.",
            handler=sign_out,
            audited=a_session_begun,
            answer=SignedOut,
        ),
        change_unbound(
            "createAccessToken",
            "/access-tokens",
            tag="sign-in",
            summary="Sign a program in: an access token for 15 minutes, and a refresh token for the next.",
            handler=by_program,
            audited=a_session_begun,
            body_model=Credentials,
            answer=AccessTokenPair,
            refusals=(*refused, ProblemCode.KEY_SERVICE_UNAVAILABLE),
        ),
        change_unbound(
            "refreshAccessToken",
            "/access-tokens/refresh",
            tag="sign-in",
            summary="The next access token, and the next refresh token. One that is shown twice ends the session.",
            handler=refresh,
            audited=a_session_begun,
            body_model=RefreshToken,
            answer=AccessTokenPair,
            refusals=(ProblemCode.KEY_SERVICE_UNAVAILABLE,),
        ),
        read(
            "getMe",
            "/me",
            tag="sign-in",
            summary="Who calls, and what they may.",
            handler=me,
            answer=Me,
        ),
        change_unbound(
            "changePassword",
            "/me/password",
            tag="sign-in",
            summary="Change your password. All your other sessions end.",
            handler=change_password,
            audited=AuditedByItself(resource="user"),
            body_model=PasswordChange,
            answer=SignedOut,
            refusals=(ProblemCode.CONFLICT, ProblemCode.TOO_MANY_ATTEMPTS, ProblemCode.ROLE_MISSING),
        ),
        read(
            "listMySessions",
            "/me/sessions",
            tag="sign-in",
            summary="Your sessions, of browsers and programs, newest first.",
            handler=list_sessions,
            answer=SessionPage,
            refusals=(ProblemCode.ROLE_MISSING,),
        ),
        read(
            "getMySession",
            "/me/sessions/{session_id}",
            tag="sign-in",
            summary="Read one of your sessions.",
            handler=get_session,
            path_model=SessionPath,
            answer=Session,
            refusals=(ProblemCode.ROLE_MISSING,),
        ),
        remove(
            "endMySession",
            "/me/sessions/{session_id}",
            tag="sign-in",
            summary="End one of your sessions.",
            handler=end_session,
            audited=a_session,
            path_model=SessionPath,
            answer=SignedOut,
            refusals=(ProblemCode.ROLE_MISSING,),
        ),
    )


def _origin(call: UnboundCall[NoParameters, Credentials] | UnboundCall[NoParameters, PasswordChange]) -> Origin:
    agent = call.request.headers.get("User-Agent")
    if agent is not None:
        # What Postgres and a terminal can show.
        agent = "".join(character for character in agent if character.isprintable())[:_USER_AGENT_CHARACTERS]
    return Origin(call.caller.address, agent)
