"""The operations on keys."""

from __future__ import annotations

from ostiary.control_plane.accounts.model import AppPath
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import (
    AnyOperation,
    Audited,
    Call,
    Ids,
    NoBody,
    NoParameters,
    ProblemCode,
    amend,
    change,
    read,
    remove,
    replace,
)
from ostiary.control_plane.keys.limits import KeyLimits, KeyLimitsInForce, RecordedLimits, Removal
from ostiary.control_plane.keys.model import (
    CreatedKey,
    GenerationPath,
    Key,
    KeyChanges,
    KeyPage,
    KeyPath,
    KeyQuery,
    NewKey,
    RecordedKey,
    Revocation,
    Rotation,
)
from ostiary.control_plane.keys.service import Keys


def operations(keys: Keys) -> tuple[AnyOperation, ...]:
    async def read_key(connection: Connection, ids: Ids) -> Key:
        return await keys.key(connection, ids["key_id"])

    async def read_limits(connection: Connection, ids: Ids) -> KeyLimitsInForce:
        return await keys.limits(connection, ids["key_id"])

    a_key = Audited(
        resource="key", id_from="key_id", made_id="key_id", read=read_key, record=RecordedKey, owner="key_id"
    )
    its_limits = Audited(
        resource="key_limits", id_from="key_id", read=read_limits, record=RecordedLimits, owner="key_id"
    )

    async def create_key(call: Call[AppPath, NoParameters, NewKey]) -> CreatedKey:
        return await keys.create(call.connection, call.path.app_id, call.body)

    async def list_keys(call: Call[AppPath, KeyQuery, NoBody]) -> KeyPage:
        return await keys.keys_of(call.connection, call.path.app_id, call.query)

    async def get_key(call: Call[KeyPath, NoParameters, NoBody]) -> Key:
        return await keys.key(call.connection, call.path.key_id)

    async def amend_key(call: Call[KeyPath, NoParameters, KeyChanges]) -> Key:
        return await keys.amend(call.connection, call.path.key_id, call.body)

    async def rotate_key(call: Call[KeyPath, NoParameters, Rotation]) -> CreatedKey:
        return await keys.rotate(call.connection, call.path.key_id, call.body)

    async def end_generation(call: Call[GenerationPath, NoParameters, NoBody]) -> Key:
        return await keys.end_generation(call.connection, call.path.key_id, call.path.number)

    async def revoke_key(call: Call[KeyPath, NoParameters, Revocation]) -> Key:
        return await keys.revoke(call.connection, call.path.key_id, call.body)

    async def get_limits(call: Call[KeyPath, NoParameters, NoBody]) -> KeyLimitsInForce:
        return await keys.limits(call.connection, call.path.key_id)

    async def put_limits(call: Call[KeyPath, NoParameters, KeyLimits]) -> KeyLimitsInForce:
        changed_by = call.caller.actor.principal
        return await keys.put_limits(call.connection, call.path.key_id, call.body, changed_by=changed_by)

    async def delete_limits(call: Call[KeyPath, Removal, NoBody]) -> KeyLimitsInForce:
        changed_by = call.caller.actor.principal
        return await keys.remove_limits(call.connection, call.path.key_id, call.query.reason, changed_by=changed_by)

    return (
        change(
            "createKey",
            "/apps/{app_id}/keys",
            tag="keys",
            summary="Create a key of an app. The secret is in this one answer and nowhere else.",
            handler=create_key,
            path_model=AppPath,
            body_model=NewKey,
            answer=CreatedKey,
            audited=a_key,
            shown_once=frozenset({"secret"}),
            location="/keys/{key_id}",
        ),
        read(
            "listKeys",
            "/apps/{app_id}/keys",
            tag="keys",
            summary="List the keys of an app, newest first; revoked and expired ones too.",
            handler=list_keys,
            path_model=AppPath,
            query_model=KeyQuery,
            answer=KeyPage,
        ),
        read(
            "getKey",
            "/keys/{key_id}",
            tag="keys",
            summary="Read a key, without its secrets: which it has, until when, and when each was last used by whom.",
            handler=get_key,
            path_model=KeyPath,
            answer=Key,
        ),
        amend(
            "amendKey",
            "/keys/{key_id}",
            tag="keys",
            summary="Change name, scopes, plan or restrictions of a key. In force within a second; its secret stays.",
            handler=amend_key,
            path_model=KeyPath,
            body_model=KeyChanges,
            answer=Key,
            audited=a_key,
            refusals=(ProblemCode.CONFLICT,),
        ),
        change(
            "rotateKey",
            "/keys/{key_id}/rotate",
            tag="keys",
            summary="Give a key another secret, shown in this one answer. The one before works on for the grace, and the one "
            "before that ends at once.",
            handler=rotate_key,
            path_model=KeyPath,
            body_model=Rotation,
            answer=CreatedKey,
            audited=a_key,
            status=200,
            refusals=(ProblemCode.CONFLICT,),
            shown_once=frozenset({"secret"}),
        ),
        remove(
            "endGeneration",
            "/keys/{key_id}/generations/{number}",
            tag="keys",
            summary="End the secret before the present one, ahead of its time. Gateways refuse it within a second. Ending it "
            "again changes nothing.",
            handler=end_generation,
            path_model=GenerationPath,
            answer=Key,
            audited=a_key,
            refusals=(ProblemCode.CONFLICT,),
        ),
        change(
            "revokeKey",
            "/keys/{key_id}/revoke",
            tag="keys",
            summary="Revoke a key, for ever. Gateways refuse it within a second. Revoking it again changes nothing.",
            handler=revoke_key,
            path_model=KeyPath,
            body_model=Revocation,
            answer=Key,
            audited=a_key,
            status=200,
        ),
        read(
            "getKeyLimits",
            "/keys/{key_id}/limits",
            tag="keys",
            summary="Read what holds for a key in place of its plan's limits.",
            handler=get_limits,
            path_model=KeyPath,
            answer=KeyLimitsInForce,
        ),
        replace(
            "putKeyLimits",
            "/keys/{key_id}/limits",
            tag="keys",
            summary="Replace parts of a key's plan, for this key alone. In force within a second; what was used stays used.",
            handler=put_limits,
            path_model=KeyPath,
            body_model=KeyLimits,
            answer=KeyLimitsInForce,
            audited=its_limits,
        ),
        remove(
            "deleteKeyLimits",
            "/keys/{key_id}/limits",
            tag="keys",
            summary="Go back to the limits of the key's plan. Doing so again changes nothing.",
            handler=delete_limits,
            path_model=KeyPath,
            query_model=Removal,
            answer=KeyLimitsInForce,
            audited=its_limits,
        ),
    )
