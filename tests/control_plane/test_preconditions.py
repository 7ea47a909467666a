"""Versions of resources: what was read is not written over by who did not see it, and is not sent again unchanged."""

from __future__ import annotations

import asyncio

import asyncpg

from tests.control_plane.support import Api


async def _key(api: Api) -> tuple[str, str]:
    """A key's path, and its tag."""
    path = f"/keys/{(await api.key(await api.app()))['key_id']}"
    return path, (await api.get(path)).headers["ETag"]


async def test_a_change_by_who_did_not_see_the_last_one_is_refused(api: Api) -> None:
    """Of two people who edit a key, the slower would undo what the faster did, and neither would know."""
    path, tag = await _key(api)
    faster = await api.request("PATCH", path, json={"name": "faster"}, headers={"If-Match": tag})
    assert faster.status == 200
    slower = await api.request("PATCH", path, json={"name": "slower"}, headers={"If-Match": tag})
    assert (slower.status, slower.code) == (412, "precondition_failed")
    read = await api.get(path)
    assert read.document["name"] == "faster"
    assert read.headers["ETag"] == faster.headers["ETag"] != tag
    again = await api.request(
        "PATCH", path, json={"name": "slower"}, headers={"If-Match": f'"other", {faster.headers["ETag"]}'}
    )
    assert again.status == 200
    assert (await api.request("PATCH", path, json={"name": "any"}, headers={"If-Match": "*"})).status == 200
    assert (await api.request("PATCH", path, json={"name": "last wins"})).status == 200


async def test_of_many_changes_at_once_from_one_version_one_is_made(api: Api) -> None:
    """The check and the change would be two moments, and two who pass the check would both write."""
    path, tag = await _key(api)
    replies = await asyncio.gather(
        *(
            api.request("PATCH", path, json={"name": f"name {number}"}, headers={"If-Match": tag})
            for number in range(12)
        )
    )
    assert sorted(reply.status for reply in replies) == [200, *[412] * 11]


async def test_limits_of_a_key_have_versions_of_their_own(api: Api) -> None:
    path, _ = await _key(api)
    tag = (await api.get(f"{path}/limits")).headers["ETag"]
    sent = {"concurrency": 3, "reason": "x"}
    assert (await api.request("PUT", f"{path}/limits", json=sent, headers={"If-Match": tag})).status == 200
    for method, options in (("PUT", {"json": sent}), ("DELETE", {"params": {"reason": "x"}})):
        refused = await api.request(method, f"{path}/limits", headers={"If-Match": tag}, **options)
        assert (refused.status, refused.code) == (412, "precondition_failed")
    assert (await api.get(f"{path}/limits")).document["concurrency"] == 3


async def test_what_a_reader_has_already_is_not_sent_again(api: Api) -> None:
    path, tag = await _key(api)
    for known in (tag, f'"x", W/{tag}', "*"):
        reply = await api.get(path, headers={"If-None-Match": known})
        assert (reply.status, reply.text, reply.headers["ETag"]) == (304, "", tag)
    assert (await api.get(path, headers={"If-None-Match": '"x"'})).status == 200
    await api.request("PATCH", path, json={"name": "another"})
    assert (await api.get(path, headers={"If-None-Match": tag})).status == 200


async def test_a_use_of_a_key_makes_a_new_answer_and_hinders_no_change(
    api: Api, connection: asyncpg.Connection
) -> None:
    """A key in use could never be changed with If-Match; or a reader would keep an old time of its last use."""
    path, tag = await _key(api)
    await connection.execute(
        "INSERT INTO key_uses (key_id, generation, last_used_at) VALUES ($1, 1, now())", path.removeprefix("/keys/")
    )
    read = await api.get(path, headers={"If-None-Match": tag})
    assert (read.status, read.headers["ETag"] != tag) == (200, True)
    assert (await api.request("PATCH", path, json={"name": "x"}, headers={"If-Match": tag})).status == 200


async def test_a_condition_that_can_not_be_checked_is_refused(api: Api) -> None:
    """A client would believe itself safe."""
    path, tag = await _key(api)
    made = await api.request("POST", "/organizations", json={"name": "New"}, headers={"If-Match": "*"})
    assert (made.status, made.code) == (412, "precondition_failed")
    for wrong in ("unquoted", '"open', "", '"a" "b"', ",".join(['"x"'] * 2000)):
        refused = await api.request("PATCH", path, json={"name": "x"}, headers={"If-Match": wrong})
        assert (refused.status, refused.code) == (400, "malformed_request"), wrong
        refused = await api.request("POST", "/organizations", json={"name": "New"}, headers={"If-Match": wrong})
        assert (refused.status, refused.code) == (400, "malformed_request"), f"{wrong}, where there is no version"
    weak = await api.request("PATCH", path, json={"name": "x"}, headers={"If-Match": f"W/{tag}"})
    assert weak.status == 412, "the comparison is the strong one"
    unless = await api.request("PATCH", path, json={"name": "x"}, headers={"If-None-Match": tag})
    assert unless.status == 412
    assert (await api.get(path)).headers["ETag"] == tag


async def test_what_is_not_there_is_not_found_whatever_the_condition(api: Api) -> None:
    refused = await api.request("PATCH", "/keys/ak_none", json={"name": "x"}, headers={"If-Match": '"x"'})
    assert refused.status == 404
