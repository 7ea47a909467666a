"""The operations on platform tokens."""

from __future__ import annotations

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import (
    AnyOperation,
    Audited,
    Call,
    Ids,
    NoBody,
    NoParameters,
    Paging,
    change,
    read,
    remove,
)
from ostiary.control_plane.platform_tokens.model import (
    CreatedPlatformToken,
    NewPlatformToken,
    PlatformToken,
    PlatformTokenPage,
    PlatformTokenPath,
    RecordedPlatformToken,
)
from ostiary.control_plane.platform_tokens.service import PlatformTokens


def operations(tokens: PlatformTokens) -> tuple[AnyOperation, ...]:
    async def read_token(connection: Connection, ids: Ids) -> PlatformToken:
        return await tokens.token(connection, ids["token_id"])

    a_token = Audited(
        resource="platform_token", id_from="token_id", made_id="id", read=read_token, record=RecordedPlatformToken
    )

    async def create(call: Call[NoParameters, NoParameters, NewPlatformToken]) -> CreatedPlatformToken:
        return await tokens.create(call.connection, call.body, by=call.caller.actor)

    async def list_tokens(call: Call[NoParameters, Paging, NoBody]) -> PlatformTokenPage:
        return await tokens.tokens(call.connection, call.query)

    async def get(call: Call[PlatformTokenPath, NoParameters, NoBody]) -> PlatformToken:
        return await tokens.token(call.connection, call.path.token_id)

    async def revoke(call: Call[PlatformTokenPath, NoParameters, NoBody]) -> PlatformToken:
        return await tokens.revoke(call.connection, call.path.token_id)

    return (
        change(
            "createPlatformToken",
            "/platform-tokens",
            tag="platform tokens",
            summary="Create a token for a program, with a role over the platform or in one organization. It is in this one "
            "answer and nowhere else.",
            handler=create,
            audited=a_token,
            body_model=NewPlatformToken,
            answer=CreatedPlatformToken,
            shown_once=frozenset({"token"}),
            location="/platform-tokens/{id}",
        ),
        read(
            "listPlatformTokens",
            "/platform-tokens",
            tag="platform tokens",
            summary="List platform tokens, the newest first; revoked and expired ones too.",
            handler=list_tokens,
            query_model=Paging,
            answer=PlatformTokenPage,
        ),
        read(
            "getPlatformToken",
            "/platform-tokens/{token_id}",
            tag="platform tokens",
            summary="Read a platform token, without its secret.",
            handler=get,
            path_model=PlatformTokenPath,
            answer=PlatformToken,
        ),
        remove(
            "revokePlatformToken",
            "/platform-tokens/{token_id}",
            tag="platform tokens",
            summary="Revoke a platform token, for ever. In force with its next call.",
            handler=revoke,
            audited=a_token,
            path_model=PlatformTokenPath,
            answer=PlatformToken,
        ),
    )
