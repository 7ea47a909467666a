"""`ostiary control-plane`, and the commands that talk to it, as an operator types them."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from click.testing import CliRunner

from ostiary.cli.client import ApiError, Client, parse_address
from ostiary.cli.main import main
from ostiary.cli.table import table
from ostiary.cli.tail import News
from tests.cli.conftest import ENVIRONMENT, OPERATOR_TOKEN, Process, Run, start, write_configuration


def test_an_organization_an_app_and_a_key_are_made_listed_and_revoked(run: Run) -> None:
    """The whole job of a platform team would not work from a shell."""
    organization_id = run("orgs", "create", "Acme").stdout.strip()
    app_id = run("apps", "create", "Shop", "--org", organization_id, "--description", "sells").stdout.strip()
    created = json.loads(
        run("keys", "create", "--app", app_id, "--name", "import", "--scope", "clients:read", "--scope", "clients:write",
            "--plan", "standard", "--expires-in-days", "7", "--allowed-ip", "203.0.113.0/24", "--json").stdout
    )  # fmt: skip
    assert (created["scopes"], created["plan"]) == (["clients:read", "clients:write"], "standard")
    assert created["allowed_ips"] == ["203.0.113.0/24"]
    listed = run("keys", "list", "--app", app_id).stdout
    assert created["key_id"] in listed
    assert created["secret"] not in listed
    assert "leaked" in run("keys", "revoke", created["key_id"], "--reason", "leaked").stdout
    document = json.loads(run("keys", "list", "--app", app_id, "--json").stdout)
    assert (document["total"], document["data"][0]["state"]) == (1, "revoked")
    assert organization_id in run("orgs", "list").stdout
    assert app_id in run("apps", "list", "--org", organization_id).stdout


def test_the_first_operator_comes_about_by_the_configured_token(run: Run) -> None:
    """Nobody could get in but by the one token that everybody would then share."""
    invited = run("users", "invite", "rosa@example.com", "--role", "operator")
    password = "seven horses in a row"
    accepted = run("users", "accept", "--name", "Rosa", typed=f"{invited.stdout.strip()}\n{password}\n{password}\n")
    user_id = accepted.stdout.split()[-1]
    token = run("sign-in", "rosa@example.com", typed=f"{password}\n").stdout.split()[-1]
    as_rosa = {"OSTIARY_TOKEN": token}
    assert user_id in run("users", "list", environment=as_rosa).stdout
    organization_id = run("orgs", "create", "Hers", environment=as_rosa).stdout.strip()
    run("orgs", "invite", organization_id, "paul@example.com", "--role", "owner", environment=as_rosa)
    assert "pending" in run("orgs", "invitations", organization_id, environment=as_rosa).stdout
    made = json.loads(run("tokens", "create", "deploy", "--role", "auditor", "--json", environment=as_rosa).stdout)
    as_program = {"OSTIARY_TOKEN": made["token"]}
    assert organization_id in run("orgs", "list", environment=as_program).stdout
    run("orgs", "create", "Not theirs", environment=as_program, exit_code=1)
    run("tokens", "revoke", made["id"], environment=as_rosa)
    refused = run("orgs", "list", environment=as_program, exit_code=1)
    assert "401" in refused.stderr
    assert "needs --org" in run("tokens", "create", "x", "--role", "admin", exit_code=2).stderr


def test_a_new_secret_is_printed_once_and_the_reader_is_told(run: Run) -> None:
    """Someone would close the terminal and look for the secret later."""
    app_id = run("apps", "create", "Once", "--org", run("orgs", "create", "Once").stdout.strip()).stdout.strip()
    result = run("keys", "create", "--app", app_id, "--name", "x", "--environment", "live")
    assert result.stdout.count("sk_live_") == 1
    assert "shown this once" in result.stderr


def test_a_key_is_rotated_shown_changed_and_its_old_secret_ended(run: Run) -> None:
    """Row 66: at three in the morning an operator would write JSON by hand to replace a secret."""
    app_id = run("apps", "create", "Turn", "--org", run("orgs", "create", "Turn").stdout.strip()).stdout.strip()
    created = json.loads(run("keys", "create", "--app", app_id, "--name", "x", "--scope", "a", "--json").stdout)
    key_id, old = created["key_id"], created["secret"][-4:]
    rotated = run("keys", "rotate", key_id, "--grace", "12h")
    assert rotated.stdout.count("sk_test_") == 1
    assert "shown this once" in rotated.stderr
    assert f"The secret that ends in {old} works until " in rotated.stderr
    new = rotated.stdout.split()[-1][-4:]
    shown = run("keys", "show", key_id).stdout.splitlines()
    assert [line.split() for line in shown if line.startswith("state")] == [["state", "rotating"]]
    assert shown[-3].split()[:3] == ["NUMBER", "SECRET", "HINT"]
    assert (shown[-2].split()[:2], shown[-1].split()[:2]) == (["2", new], ["1", old])
    document = json.loads(run("keys", "show", key_id, "--json").stdout)
    assert [generation["number"] for generation in document["generations"]] == [2, 1]
    assert "rotating" in run("keys", "list", "--app", app_id).stdout
    assert json.loads(run("keys", "end", key_id, "1", "--json").stdout)["state"] == "active"
    assert "409" in run("keys", "end", key_id, "2", exit_code=1).stderr

    changed = json.loads(
        run(
            "keys", "update", key_id, "--scope", "b", "--plan", "standard", "--allowed-ip", "10.0.0.0/8", "--json"
        ).stdout
    )
    assert (changed["name"], changed["scopes"], changed["plan"]) == ("x", ["b"], "standard")
    changed = json.loads(run("keys", "update", key_id, "--no-plan", "--no-scopes", "--name", "y", "--json").stdout)
    assert (changed["name"], changed["scopes"], changed["plan"]) == ("y", [], None)
    assert changed["allowed_ips"] == ["10.0.0.0/8"]
    assert "give at least one field" in run("keys", "update", key_id, exit_code=1).stderr
    for wrong in (("--plan", "a", "--no-plan"), ("--scope", "a", "--no-scopes")):
        run("keys", "update", key_id, *wrong, exit_code=2)

    gone = run("keys", "rotate", key_id, "--grace", "0")
    assert f"The secret that ends in {new} has ended." in gone.stderr
    for grace in ("a week", "7", "-1d", "7w"):
        assert "is not like 7d" in run("keys", "rotate", key_id, "--grace", grace, exit_code=2).stderr
    assert "grace_seconds" in run("keys", "rotate", key_id, "--grace", "91d", exit_code=1).stderr


def test_limits_of_a_key_are_set_shown_and_removed(run: Run) -> None:
    """A platform team would write JSON by hand to give one caller more."""
    app_id = run("apps", "create", "Own", "--org", run("orgs", "create", "Own").stdout.strip()).stdout.strip()
    key_id = json.loads(run("keys", "create", "--app", app_id, "--name", "x", "--json").stdout)["key_id"]
    limits = ("keys", "limits")
    terms = ("--rate", "100/minute+600", "--limit", "5000/hour", "--limit", "9/second,shadow,charged", "--no-quotas")
    bound = ("--concurrency", "7", "--concurrency-mode", "shadow")
    shown = run(*limits, "set", key_id, *terms, *bound, "--reason", "launch").stdout
    lines = (
        *("rate         100/minute+600", "limits       5000/hour, 9/second,shadow,charged", "quotas       none"),
        *("concurrency  7,shadow", "overage      as in the plan"),
    )
    for line in lines:
        assert line in shown
    assert "by operator: launch" in run(*limits, "show", key_id).stdout
    document = json.loads(run(*limits, "show", key_id, "--json").stdout)
    assert document["rate"] == {"requests": 100, "per": "minute", "burst": 600, "mode": "enforce", "refused": "free"}
    assert "rate         as in the plan" in run(*limits, "remove", key_id, "--reason", "over").stdout
    for wrong in (("--rate", "fast"), ("--limit", "5/hour+6"), ("--rate", "5/hour+x")):
        assert "is not like" in run(*limits, "set", key_id, *wrong, "--reason", "x", exit_code=2).stderr
    assert "per" in run(*limits, "set", key_id, "--limit", "5/fortnight", "--reason", "x", exit_code=1).stderr
    run(*limits, "set", key_id, "--limit", "5/hour", "--no-limits", "--reason", "x", exit_code=2)


def test_a_long_list_says_how_much_is_left_out(run: Run) -> None:
    """A script would take the first page for everything."""
    organization_id = run("orgs", "create", "Many").stdout.strip()
    for number in range(3):
        run("apps", "create", f"app {number}", "--org", organization_id)
    result = run("apps", "list", "--org", organization_id, "--limit", "2")
    assert len(result.stdout.splitlines()) == 3
    assert "1 more" in result.stderr


def test_usage_per_day_has_every_day_and_refuses_an_unknown_app(run: Run) -> None:
    """A mistyped app id would look like an app without calls."""
    assert len(run("usage", "daily", "--days", "3").stdout.splitlines()) == 4
    days = json.loads(run("usage", "daily", "--days", "3", "--json").stdout)
    assert [day["calls"] for day in days["data"]] == [0, 0, 0]
    assert "no such app" in run("usage", "daily", "--app", str(uuid4()), exit_code=1).stderr


def _meter(postgres: str, *calls: tuple[str, int]) -> None:
    """Finished calls of now, by request id and status, as the shipper writes them. One of 200 would have been refused by a
    limit in shadow, and tells of a quota."""
    reached = {"subject": "k:ak_of_a_file", "quota": "p:day", "period_ends_us": 1, "percent": 80, "calls_max": 9}

    async def write() -> None:
        connection = await asyncpg.connect(postgres)
        try:
            await connection.execute("SELECT usage_ensure_partition((now() AT TIME ZONE 'UTC')::date)")
            for request_id, status in calls:
                await connection.execute(
                    """
                    INSERT INTO usage_events (occurred_at, request_id, key_id, route, path_template, method, status,
                        latency_us, bytes_in, bytes_out, overage, complete, would_refuse, quota_reached)
                    VALUES (now(), $1, 'ak_of_a_file', 'clients', '/v1/clients', 'GET', $2::smallint, 1500, 0, 121, true,
                        true, CASE WHEN $2 = 200 THEN 'p:minute' END, CASE WHEN $2 = 200 THEN $3::jsonb END)
                    """,
                    request_id,
                    status,
                    json.dumps([reached]),
                )
        finally:
            await connection.close()

    asyncio.run(write())


def test_usage_is_told_in_tables_json_and_csv(run: Run, module_database: str) -> None:
    """An operator who wants to know what failed would write SQL."""
    _meter(module_database, ("=evil", 200), ("b", 503), ("c", 503))
    summary = run("usage", "summary", "--since", "1h", "--interval", "hour").stdout
    assert summary.startswith("from ")
    assert "P99 LATENCY MS" in summary
    assert json.loads(run("usage", "summary", "--status", "5xx", "--days", "1", "--json").stdout)["calls"] == 2
    assert "clients" in run("usage", "endpoints", "--days", "1").stdout
    [error] = json.loads(run("usage", "errors", "--since", "2h", "--json").stdout)["data"]
    assert (error["status"], error["calls"]) == (503, 2)
    assert run("usage", "overage", "--days", "1").stdout.splitlines()[1].split()[-2:] == ["3", "3"]
    assert run("usage", "shadow", "--days", "1").stdout.splitlines()[1].split() == ["clients", "p:minute", "3", "1"]
    assert run("usage", "shadow", "--status", "404", "--csv").stdout.splitlines() == [
        "route,key_id,limit,calls,would_refuse"
    ]
    quotas = json.loads(run("usage", "quota-events", "--key", "ak_of_a_file", "--json").stdout)["data"]
    assert [event["threshold"] for event in quotas] == [80, 50]
    logs = run("usage", "logs", "--limit", "2")
    assert len(logs.stdout.splitlines()) == 3
    assert "1 more" in logs.stderr
    exported = run("usage", "logs", "--csv").stdout.splitlines()
    assert len(exported) == 4
    assert ",'=evil," in exported[3]
    assert "no such app" in run("usage", "logs", "--app", str(uuid4()), exit_code=1).stderr
    assert "no time zone" in run("usage", "logs", "--since", "2026-01-01T00:00:00", exit_code=2).stderr
    assert "since" in run("usage", "logs", "--csv", "--until", "2026-01-01", "--since", "1h", exit_code=1).stderr


def test_tail_shows_each_call_once_in_order() -> None:
    """Two gateways whose rows arrive in another order than they happened: none twice, none left out."""
    news = News()
    calls = {name: {"occurred_at": f"2026-01-01T00:00:0{at}Z", "request_id": name} for at, name in enumerate("abcd")}
    assert news.new([calls["c"], calls["a"]]) == [calls["a"], calls["c"]]
    assert news.new([calls["d"], calls["c"], calls["b"], calls["a"]]) == [calls["b"], calls["d"]]
    assert news.new([calls["d"]]) == []


def test_tail_prints_calls_as_they_come_until_it_is_interrupted(control_plane: Process, module_database: str) -> None:
    """An operator would watch the gateway's log, which has no calls that went well."""
    popen = subprocess.Popen(
        [
            sys.executable,
            "-c",
            # A shell starts what is in its background deaf to the interrupt, and so is what that starts.
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from ostiary.cli.main import main; main()",
            "usage",
            "tail",
            "--json",
            "--url",
            control_plane.url,
        ],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert popen.stdout is not None
    deadline, number = time.monotonic() + 60, 0
    reader = select.poll()
    reader.register(popen.stdout, select.POLLIN)
    while not reader.poll(300):  # until its first look was over, calls are of before
        assert time.monotonic() < deadline, "tail shows nothing"
        number += 1
        _meter(module_database, (f"tailed-{number}", 200))
    assert json.loads(popen.stdout.readline())["request_id"].startswith("tailed-")
    popen.send_signal(signal.SIGINT)
    assert popen.wait(10) == 0


def test_a_refusal_is_told_with_every_field_and_exit_status_1(run: Run) -> None:
    """A script would go on as if the key had been made."""
    app_id = run("apps", "create", "Refused", "--org", run("orgs", "create", "Refused").stdout.strip()).stdout.strip()
    result = run("keys", "create", "--app", app_id, "--name", " ", "--scope", "UPPER", exit_code=1)
    assert "422 invalid_fields" in result.stderr
    assert "name: must be" in result.stderr
    assert "scopes.0: must be" in result.stderr
    assert run("keys", "revoke", "../../apps", "--reason", "x", exit_code=1).stderr.count("404") == 1


def test_a_wrong_token_is_refused_and_a_missing_one_is_asked_for(run: Run) -> None:
    """The caller would not know what to mend; or the token would be shown."""
    wrong = {"OSTIARY_OPERATOR_TOKEN": "wrong-token-canary"}
    result = run("orgs", "list", environment=wrong, exit_code=1)
    assert "401 credentials_invalid" in result.stderr
    assert "canary" not in result.output + result.stderr
    assert (
        "OSTIARY_OPERATOR_TOKEN" in run("orgs", "list", environment={"OSTIARY_OPERATOR_TOKEN": ""}, exit_code=2).stderr
    )


def test_the_token_may_come_from_a_file_and_never_from_the_arguments(run: Run, tmp_path: Path) -> None:
    """Everyone on the machine could read it in the list of processes."""
    token_file = tmp_path / "token"
    token_file.write_text(OPERATOR_TOKEN + "\n")
    token_file.chmod(stat.S_IRUSR)
    run("orgs", "list", "--token-file", str(token_file), environment={"OSTIARY_OPERATOR_TOKEN": ""})
    run("orgs", "list", "--token", OPERATOR_TOKEN, exit_code=2)
    token_file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    token_file.write_text("two\nlines")
    assert "lines" not in run("orgs", "list", "--token-file", str(token_file), exit_code=2).stderr


def test_no_control_plane_is_an_error_that_says_where_it_was_sought() -> None:
    """A traceback would be all there is."""
    with socket.socket() as listener:  # bound and not listening: nobody answers, and nobody else takes the port
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        result = CliRunner().invoke(main, ["orgs", "list", "--url", url], env=ENVIRONMENT)
    assert result.exit_code == 1
    assert url in result.stderr
    assert "--url" in result.stderr


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://user:canary@host", "x", "http://", "http://host?x", "http://host:99999"]
)
def test_a_wrong_address_is_refused_without_being_repeated(url: str) -> None:
    """A password in it would be shown, or the token sent to nowhere."""
    result = CliRunner().invoke(main, ["orgs", "list", "--url", url], env=ENVIRONMENT)
    assert result.exit_code == 2
    assert "canary" not in result.stderr


def test_a_token_never_follows_a_redirect_nor_is_it_shown() -> None:
    """Row 132: whoever answers on that port would send the token where he likes."""
    client = Client(parse_address("https://api.example.com/ostiary/"), OPERATOR_TOKEN)
    assert OPERATOR_TOKEN not in repr(client)
    assert (client.address.port, client.address.prefix) == (443, "/ostiary")
    with socket.create_server(("127.0.0.1", 0)) as server:
        import threading

        def answer() -> None:
            connection, _ = server.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 2\r\n\r\n{}")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ApiError, match="302"):
            Client(parse_address(f"http://127.0.0.1:{server.getsockname()[1]}"), OPERATOR_TOKEN).get("/apps")
        thread.join()


def test_a_name_can_t_colour_the_terminal() -> None:
    """A name from somewhere else could hide a line or run a terminal's commands."""
    assert "\x1b" not in table([{"name": "\x1b[31mred\x1b]0;title\x07"}], ("name",))
    assert table([{"name": None, "scopes": ["a", "b"]}], ("name", "scopes")) == "NAME  SCOPES\n-     a,b"


def test_sigterm_ends_it_with_status_0_and_a_log_without_secrets(module_database: str, tmp_path: Path) -> None:
    """A deployment would see a crash at every stop; the log would hold what opens everything."""
    process = start(write_configuration(tmp_path / "gateway.yaml", module_database))
    run_ended = CliRunner().invoke(main, ["orgs", "list", "--url", process.url], env=ENVIRONMENT)
    assert run_ended.exit_code == 0
    assert process.end() == 0
    log = "".join(process.lines)
    assert [json.loads(line)["event"] for line in process.lines if line.strip()] == [
        "audit_log_not_protected",  # it runs as the owner of the tables
        "listening",
        "call",
        "ending",
    ]
    for secret in ENVIRONMENT.values():
        assert secret not in log
    assert process.popen.args[-2:] == ["-c", str(tmp_path / "gateway.yaml")]  # type: ignore[index]  # a list, as started


def test_a_port_in_use_is_an_error_that_names_it(control_plane: Process, module_database: str, tmp_path: Path) -> None:
    """A traceback would be all there is."""
    port = control_plane.url.rpartition(":")[2]
    path = write_configuration(tmp_path / "gateway.yaml", module_database)
    path.write_text(path.read_text().replace("port: 0", f"port: {port}"))
    result = CliRunner().invoke(main, ["control-plane", "-c", str(path)], env=ENVIRONMENT)
    assert result.exit_code == 1
    assert f"127.0.0.1:{port}" in result.stderr


@pytest.mark.parametrize(
    ("remove", "says"),
    [
        ("operator_token", "control_plane.operator_token is not set"),
        ("key_encryption_key", "stores.key_encryption_key is not set"),
        ("postgres", "stores.postgres is not set"),
    ],
)
def test_without_what_it_needs_it_does_not_start(module_database: str, tmp_path: Path, remove: str, says: str) -> None:
    """It would start, and fail at the first key; or let everyone in."""
    path = write_configuration(tmp_path / "gateway.yaml", module_database)
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if f" {remove}:" not in line))
    result = CliRunner().invoke(main, ["control-plane", "-c", str(path)], env=ENVIRONMENT)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_bad_configuration_lists_every_problem_and_ends_with_2(tmp_path: Path) -> None:
    """The operator would mend one, start again, and find the next."""
    path = tmp_path / "bad.yaml"
    path.write_text("version: 1\nplanz: {}\nstores: {postgres: 5}\n")
    for command in (["control-plane"], ["db", "migrate"], ["db", "status"]):
        result = CliRunner().invoke(main, [*command, "-c", str(path)])
        assert result.exit_code == 2
        assert result.stderr.count("bad.yaml:") >= 2
        assert result.stderr.startswith("error: ")
