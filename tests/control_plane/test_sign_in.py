"""Signing in by password: what it makes, what it refuses, and what ends it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from statistics import median
from typing import Any

import pytest

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Problem
from ostiary.control_plane.sign_in.attempts import FAILURES_MAX
from ostiary.control_plane.users import Passwords, passwords
from ostiary.control_plane.users.password_rules import weakness
from ostiary.core.model import Configuration
from tests.control_plane.people import PASSWORD, accepted, by_password, invited, person
from tests.control_plane.support import Api, Reply, serving

OWN_PAGE = {"X-Ostiary-Request": "1", "Sec-Fetch-Site": "same-origin"}


async def browser(api: Api, method: str, path: str, cookie: str, headers: dict[str, str] | None = None) -> Reply:
    sent = {"Cookie": cookie, **(OWN_PAGE if headers is None else headers)}
    return await api.request(method, path, token=None, headers=sent)


def cookie_of(reply: Reply) -> str:
    return reply.headers["Set-Cookie"].partition(";")[0]


async def test_a_browser_is_signed_in_by_a_cookie_that_no_script_reads(api: Api) -> None:
    """Row 130: who has the cookie is the user, until they sign out."""
    rosa = await person(api, "Rosa@Example.com")
    signed_in = await by_password(api, "/sign-in", "ROSA@example.COM")
    assert signed_in.status == 200, signed_in.text
    assert signed_in.document["user"]["email"] == "rosa@example.com"
    parts = signed_in.headers["Set-Cookie"].split("; ")
    assert parts[0].startswith("ostiary_session="), "on this machine alone, without TLS: the plain name"
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(parts)
    assert parts[0].partition("=")[2] not in signed_in.text
    me = await browser(api, "GET", "/me", cookie_of(signed_in))
    assert (me.status, me.document["principal"]) == (200, f"user:{rosa.id}")
    out = await browser(api, "POST", "/sign-out", cookie_of(signed_in))
    assert (out.status, out.document["ended"]) == (200, True)
    assert "Max-Age=0" in out.headers["Set-Cookie"]
    assert (await browser(api, "GET", "/me", cookie_of(signed_in))).status == 401


@pytest.mark.parametrize("path", ["/sign-in", "/access-tokens", "/access-tokens/refresh", "/invitations/accept"])
async def test_a_wrong_method_of_what_is_open_is_told_so_and_asked_for_no_credentials(
    refusing_api: Api, path: str
) -> None:
    """401 would send the client to look for a token that can't help. What is closed says 401 first, to whatever method."""
    for method in ("TRACE", "GET", "DELETE"):  # also of /invitations/accept, which no invitation's id is
        refused = await refusing_api.request(method, path, token=None)
        assert (refused.status, refused.code, refused.headers["Allow"]) == (405, "method_not_allowed", "POST"), method
        assert (await refusing_api.request(method, "/sign-out", token=None)).status == 401


async def test_over_tls_the_cookie_has_the_name_that_no_other_host_can_set(configuration: Configuration) -> None:
    """Row 130."""
    control_plane = replace(configuration.control_plane, public_url="https://console.example.com")
    async with serving(replace(configuration, control_plane=control_plane)) as api:
        await person(api, "rosa@example.com")
        signed_in = await by_password(api, "/sign-in", "rosa@example.com")
        assert signed_in.headers["Set-Cookie"].startswith("__Host-ostiary_session=")
        assert "; Secure" in signed_in.headers["Set-Cookie"]
        cookie = cookie_of(signed_in)
        for origin, status in (("https://console.example.com", 200), ("http://console.example.com", 403)):
            headers = {"X-Ostiary-Request": "1", "Origin": origin}
            assert (await browser(api, "POST", "/sign-out", cookie, headers)).status == status
            cookie = cookie_of(await by_password(api, "/sign-in", "rosa@example.com"))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"X-Ostiary-Request": "1"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 403),
        ({"X-Ostiary-Request": "1", "Sec-Fetch-Site": "same-site"}, 403),
        ({"X-Ostiary-Request": "1", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"X-Ostiary-Request": "1", "Sec-Fetch-Site": "none"}, 403),
        ({"X-Ostiary-Request": "1", "Origin": "https://elsewhere.example"}, 403),
        ({"X-Ostiary-Request": "1", "Origin": "null"}, 403),
        ({"X-Ostiary-Request": "1", "Sec-Fetch-Site": "cross-site", "Origin": "OURS"}, 403),
        ({"X-Ostiary-Request": "1", "Origin": "OURS"}, 200),
        ({"X-Ostiary-Request": "1", "Sec-Fetch-Site": "same-origin"}, 200),
    ],
    ids=lambda each: ",".join(each.values()) or "nothing" if isinstance(each, dict) else str(each),
)
async def test_a_foreign_page_changes_nothing_by_a_session(api: Api, headers: dict[str, str], status: int) -> None:
    """Row 130: cross-site request forgery. The browser sends the cookie along with what a foreign page makes it send."""
    ours = f"http://{api.client.host}:{api.client.port}"
    sent = {name: value.replace("OURS", ours) for name, value in headers.items()}
    await person(api, "rosa@example.com")
    cookie = cookie_of(await by_password(api, "/sign-in", "rosa@example.com"))
    reply = await browser(api, "POST", "/sign-out", cookie, sent)
    assert reply.status == status, reply.text
    if status == 403:
        assert reply.code == "foreign_page"
        assert (await browser(api, "GET", "/me", cookie)).status == 200


async def test_signing_in_again_ends_the_session_that_the_browser_had(api: Api) -> None:
    """Row 130: session fixation, by which what somebody slipped into the browser would become the user's."""
    await person(api, "rosa@example.com")
    first = cookie_of(await by_password(api, "/sign-in", "rosa@example.com"))
    sent = {"email": "rosa@example.com", "password": PASSWORD}
    again = await api.request("POST", "/sign-in", token=None, json=sent, headers={"Cookie": first})
    assert cookie_of(again) != first
    assert (await browser(api, "GET", "/me", first)).status == 401
    assert (await browser(api, "GET", "/me", cookie_of(again))).status == 200


@pytest.mark.parametrize("column", ["idle_ends_at", "ends_at"])
async def test_a_session_ends_after_an_hour_without_a_call_and_after_a_day(
    api: Api, connection: Connection, column: str
) -> None:
    await person(api, "rosa@example.com")
    cookie = cookie_of(await by_password(api, "/sign-in", "rosa@example.com"))
    idle, whole = await connection.fetchrow(  # type: ignore[misc]  # there is one
        "SELECT idle_ends_at - created_at, ends_at - created_at FROM sessions WHERE kind = 'browser'"
    )
    assert (idle.total_seconds(), whole.total_seconds()) == (3600, 86400)
    await connection.execute(
        "UPDATE sessions SET last_used_at = now() - interval '59 minutes', idle_ends_at = now() + '1 m'"
    )
    assert (await browser(api, "GET", "/me", cookie)).status == 200
    left = await connection.fetchval("SELECT idle_ends_at - now() FROM sessions WHERE kind = 'browser'")
    assert left.total_seconds() > 3000, "a call puts off the end for idleness"
    await connection.execute(f"UPDATE sessions SET {column} = now()")  # noqa: S608  one of two
    assert (await browser(api, "GET", "/me", cookie)).status == 401


async def test_users_see_their_own_sessions_and_end_them(api: Api) -> None:
    rosa, paul = await person(api, "rosa@example.com"), await person(api, "paul@example.com")
    cookie = cookie_of(await by_password(api, "/sign-in", "rosa@example.com"))
    listed = (await api.get("/me/sessions", token=rosa.token)).document
    assert [(each["kind"], each["current"]) for each in listed["data"]] == [("browser", False), ("program", True)]
    session_id = listed["data"][0]["id"]
    assert (await api.request("DELETE", f"/me/sessions/{session_id}", token=paul.token)).status == 404
    assert (await browser(api, "GET", "/me", cookie)).status == 200
    assert (await api.request("DELETE", f"/me/sessions/{session_id}", token=rosa.token)).status == 200
    assert (await browser(api, "GET", "/me", cookie)).status == 401


async def test_what_is_wrong_is_answered_alike_and_wrong_passwords_are_bounded(
    api: Api, connection: Connection
) -> None:
    """Answers that differ tell who has an account; guesses without end find a password."""
    rosa = await person(api, "rosa@example.com")
    await person(api, "off@example.com")
    await connection.execute("UPDATE users SET disabled_at = now() WHERE email = 'off@example.com'")
    refused = [
        await by_password(api, "/sign-in", "rosa@example.com", "not the password"),
        await by_password(api, "/sign-in", "nobody@example.com"),
        await by_password(api, "/sign-in", "off@example.com"),
    ]
    assert [reply.status for reply in refused] == [401] * 3
    assert len({str({**reply.document, "request_id": ""}) for reply in refused}) == 1
    for email in ("rosa@example.com", "nobody@example.com"):
        replies = await asyncio.gather(
            *(by_password(api, "/sign-in", email, "guess" * 3) for _ in range(FAILURES_MAX + 5))
        )
        statuses = [reply.status for reply in replies]
        assert statuses.count(401) == FAILURES_MAX - 1, "at once as in a row, known as unknown"
        assert statuses.count(429) == 6
        assert {reply.code for reply in replies if reply.status == 429} == {"too_many_attempts"}
        assert all(0 < int(reply.headers["Retry-After"]) <= 900 for reply in replies if reply.status == 429)
    assert (await by_password(api, "/sign-in", "rosa@example.com")).status == 429, "also with the right one"
    assert (await api.get("/me", token=rosa.token)).status == 200, "who is signed in stays so"
    await connection.execute("UPDATE sign_in_attempts SET ends_at = now()")
    assert (await by_password(api, "/sign-in", "rosa@example.com")).status == 200


async def test_right_passwords_are_not_counted(api: Api, connection: Connection) -> None:
    await person(api, "rosa@example.com")
    for _ in range(3):
        assert (await by_password(api, "/sign-in", "rosa@example.com")).status == 200
    assert await connection.fetchval("SELECT sum(failures) FROM sign_in_attempts") == 0


async def test_an_unknown_address_takes_as_much_work() -> None:
    """By the time of the processor, which other programs do not change: what answers sooner tells who has no account."""
    room = Passwords()
    stored = await room.hashed(PASSWORD)
    took: dict[str | None, list[float]] = {stored: [], None: []}
    for _ in range(3):
        for each, times in took.items():
            began = time.process_time()
            assert await room.verify("something else", each) is False
            times.append(time.process_time() - began)
    assert 0.3 < median(took[stored]) / median(took[None]) < 3
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_few_passwords_are_hashed_at_once_and_few_wait() -> None:
    """A flood of sign-ins would take the processors and the memory that everything else needs."""
    room = Passwords()
    results = await asyncio.gather(
        *(room.verify("x" * 12, None) for _ in range(passwords.WAITING_MAX + 5)), return_exceptions=True
    )
    refused = [each for each in results if isinstance(each, Problem)]
    assert len(refused) == 5
    assert {each.code.code for each in refused} == {"overloaded"}
    assert results.count(False) == passwords.WAITING_MAX


@pytest.mark.parametrize(
    "password",
    ["short", "x" * 129, "rosa@example.com", "password1234", "P4ssw0rd!!!!", "123456789012", "abcdefghijkl", "aaaaaaaaaaaa",
     "qwertyuiopas", "abababababab", "letmein2026!!"],
)  # fmt: skip
async def test_passwords_that_anyone_would_try_are_refused(api: Api, password: str) -> None:
    token = (await invited(api, "rosa@example.com")).document["token"]
    refused = await accepted(api, token, password)
    assert refused.status == 422
    assert "password" in refused.fields
    assert password not in refused.text


def test_long_passwords_of_any_characters_are_taken() -> None:
    """Rules about kinds of characters make passwords worse (NIST SP 800-63B)."""
    for good in (PASSWORD, "zwölf boxkämpfer jagen viktor", "四十二隻の白い馬が走っている", "x7#k2!p9@m4z"):
        assert weakness(good, "rosa@example.com") is None


async def test_a_changed_password_ends_all_other_sessions(api: Api) -> None:
    """Whoever has the old password may be signed in by it."""
    rosa = await person(api, "rosa@example.com")
    cookie = cookie_of(await by_password(api, "/sign-in", "rosa@example.com"))
    new = "eight mules behind them"

    async def change(**fields: Any) -> Reply:
        document = {"current_password": PASSWORD, "new_password": new, **fields}
        return await api.request("POST", "/me/password", token=rosa.token, json=document)

    assert (await change(current_password="wrong")).fields == {"current_password": "is not right"}
    assert (await change(new_password="password1234")).status == 422
    assert (await change()).status == 200
    assert (await browser(api, "GET", "/me", cookie)).status == 401
    assert (await api.get("/me", token=rosa.token)).status == 200
    assert (await by_password(api, "/sign-in", "rosa@example.com")).status == 401
    assert (await by_password(api, "/sign-in", "rosa@example.com", new)).status == 200


async def test_the_configured_token_has_no_password_and_no_sessions(api: Api) -> None:
    for method, path in (("GET", "/me/sessions"), ("POST", "/me/password")):
        document = {"current_password": "x", "new_password": PASSWORD} if method == "POST" else None
        reply = await api.request(method, path, json=document)
        assert (reply.status, reply.code) == (403, "role_missing")
    assert (await api.get("/me")).document["principal"] == "operator"


async def test_no_secret_of_a_user_stands_in_the_database(api: Api, connection: Connection) -> None:
    """Row 132: whoever reads a backup would sign in as everybody."""
    made = await invited(api, "rosa@example.com")
    await accepted(api, made.document["token"])
    cookie = cookie_of(await by_password(api, "/sign-in", "rosa@example.com"))
    pair = (await by_password(api, "/access-tokens", "rosa@example.com")).document
    secrets = [PASSWORD, made.document["token"], cookie.partition("=")[2], pair["refresh_token"], pair["access_token"]]
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    everything = ""
    for table in tables:
        rows = await connection.fetch(f"SELECT t::text AS row FROM {table['tablename']} t")  # noqa: S608  as Postgres says
        everything += "\n".join(row["row"] for row in rows)
    assert "rosa@example.com" in everything
    assert not [secret for secret in secrets if secret in everything]
