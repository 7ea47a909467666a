"""A control plane with TLS of its own, in a process of its own: privileged calls need a client certificate besides their
token, and certificates are renewed while it serves."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ostiary.cli.main import main
from ostiary.control_plane.authorization import MATRIX
from tests.cli.conftest import ENVIRONMENT, OPERATOR_TOKEN, Process, start, write_configuration
from tests.support.certificates import Issued, issue
from tests.support.gateway_process import eventually

ABSENT = "00000000-0000-4000-8000-000000000000"
MISSING, REFUSED = (403, "client_certificate_missing"), (403, "client_certificate_refused")
TLS = """
  listen:
    host: 127.0.0.1
    port: 0
    tls: {cert: served.pem, key: served.key, client_ca: clients.pem, client_certificate: optional, client_crl: clients.crl}
  privileged: {client_certificate: required}
"""


@dataclass(frozen=True)
class Secured:
    """Its files lie in `directory`; `authority` signs what it shows, `clients` what is shown to it."""

    directory: Path
    process: Process
    authority: Issued
    clients: Issued
    log: list[str] = field(repr=False)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.process.url.rpartition(":")[2])

    def connection(self, show: Issued | None = None) -> HTTPSConnection:
        """Kept until it is closed, by either side; it is not made again behind one's back."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # takes what Python 3.13 by itself does not
        context.load_verify_locations(self.authority.cert)
        if show is not None:
            context.load_cert_chain(show.cert, show.key)
        connection = HTTPSConnection(*self.address, timeout=20, context=context)
        connection.connect()
        connection.auto_open = False
        return connection

    def call(self, method: str, path: str, body: object = None, **options: Any) -> tuple[int, str]:
        """Status and code of a call on a connection of its own."""
        show = options.pop("show", None)
        connection = self.connection(show)
        try:
            return call(connection, method, path, body, **options)
        finally:
            connection.close()

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in list(self.log) if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


def document(
    connection: HTTPSConnection, method: str, path: str, body: object = None, *, token: str | None = OPERATOR_TOKEN
) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "application/json"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    data = None if body is None else json.dumps(body)
    prefix = "" if path.startswith("/healthz") else "/api/v1"
    connection.request(method, prefix + path, body=data, headers=headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def call(connection: HTTPSConnection, method: str, path: str, body: object = None, **options: Any) -> tuple[int, str]:
    status, answer = document(connection, method, path, body, **options)
    return status, str(answer.get("code", ""))


@pytest.fixture(scope="module")
def secured(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    authority = issue(directory, "authority", authority=True)
    clients = issue(directory, "clients", authority=True)
    authority.sign("127.0.0.1", stem="served")
    (directory / "clients.crl").write_bytes(clients.revocation_list())
    path = write_configuration(directory / "gateway.yaml", module_database)
    path.write_text(path.read_text().replace("\n  listen: {host: 127.0.0.1, port: 0}\n", TLS))
    process = start(path)
    assert process.url.startswith("https://")
    assert process.popen.stdout is not None
    log = list(process.lines)
    stdout = process.popen.stdout
    reader = threading.Thread(target=lambda: log.extend(stdout), daemon=True)
    reader.start()
    yield Secured(directory, process, authority, clients, log)
    process.popen.terminate()
    assert process.popen.wait(60) == 0
    reader.join()
    stdout.close()
    assert [line for line in log if "Traceback" in line] == []


@pytest.fixture
def operator(secured: Secured) -> Issued:
    return secured.clients.sign("operator.test")


def _or_nothing(secured: Secured, show: Issued) -> tuple[int, str] | None:
    """None also where the connection was made right before it was to end: a client makes another one."""
    try:
        return secured.call("GET", "/users", show=show)
    except (OSError, HTTPException):
        return None


def assert_ended(connection: HTTPSConnection) -> None:
    """By the other side, and not just silent."""
    with pytest.raises((OSError, HTTPException)) as ended:
        call(connection, "GET", "/users")
    assert not isinstance(ended.value, TimeoutError)


def replaced(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".fresh")
    fresh.write_bytes(content)
    fresh.replace(path)


def test_every_privileged_operation_needs_a_certificate_besides_the_token(secured: Secured, operator: Issued) -> None:
    """Whoever has found the operator's token would own the platform from wherever they are."""
    described = secured.connection()
    _, api = document(described, "GET", "/openapi.json", token=None)
    operations = [
        (method.upper(), path.removeprefix("/api/v1"), operation)
        for path, item in api["paths"].items()
        for method, operation in item.items()
    ]
    assert {operation["operationId"] for *_, operation in operations} == set(MATRIX)
    let_through = set()
    for method, path, operation in operations:
        asked = re.sub(r"\{\w+\}", ABSENT, path)
        status, code = call(described, method, asked, None if method in ("GET", "DELETE") else {})
        if (status, code) != MISSING:
            let_through.add(operation["operationId"])
        assert "client_certificate_missing" in str(operation["responses"].get("403")) or operation["security"] == []
    described.close()
    assert let_through == {
        *("signIn", "createAccessToken", "refreshAccessToken", "acceptInvitation"),
        *("signOut", "getMe", "changePassword", "listMySessions", "getMySession", "endMySession"),
        *("acceptInvitationAsUser", "leaveOrganization"),
    }
    assert secured.call("GET", "/users", show=operator) == (200, "")
    assert secured.call("GET", "/healthz", token=None)[0] == 200


def test_the_refusal_says_what_to_do_and_is_in_the_audit_log(secured: Secured, operator: Issued) -> None:
    """Who is refused would look for a mistake in the token; and who tries a stolen one would be seen by nobody."""
    showing = secured.connection(operator)
    _, stolen = document(showing, "POST", "/platform-tokens", {"name": "stolen", "platform_role": "operator"})
    plain = secured.connection()
    status, problem = document(plain, "POST", "/organizations", {"name": "Nobody's"}, token=stolen["token"])
    assert (status, problem["code"]) == MISSING
    assert call(plain, "GET", "/users", token=stolen["token"]) == MISSING, "whoever has found it looks around first"
    plain.close()
    for word in ("client certificate besides its token", "control_plane.listen.tls.client_ca", "--client-certificate"):
        assert word in problem["detail"]
    _, page = document(showing, "GET", f"/audit?outcome=refused&actor=token:{stolen['id']}")
    showing.close()
    assert [(row["code"], row["operation"], row["resource_type"]) for row in page["data"]] == [
        ("client_certificate_missing", "listUsers", "users"),
        ("client_certificate_missing", "createOrganization", "organization"),
    ]


def test_members_need_none_and_no_other_role_over_the_platform_does_without(secured: Secured, operator: Issued) -> None:
    """Customers would have to be given certificates; or a platform token would be a way around."""
    showing = secured.connection(operator)
    _, organization = document(showing, "POST", "/organizations", {"name": "Acme"})
    made = {"name": "a program", "organization_id": organization["id"], "role": "viewer"}
    _, member = document(showing, "POST", "/platform-tokens", made)
    _, auditor = document(showing, "POST", "/platform-tokens", {"name": "another", "platform_role": "auditor"})
    assert call(showing, "GET", "/users", token=auditor["token"]) == (200, "")
    showing.close()
    plain = secured.connection()
    own = f"/organizations/{organization['id']}"
    assert call(plain, "GET", own, token=member["token"]) == (200, "")
    assert call(plain, "GET", "/organizations", token=member["token"]) == (200, "")
    assert call(plain, "GET", own, token=auditor["token"]) == MISSING
    assert call(plain, "GET", "/organizations", token=auditor["token"]) == MISSING
    assert call(plain, "GET", "/me", token=auditor["token"]) == (200, "")
    plain.close()


def test_a_certificate_of_nobody_we_know_makes_no_connection(secured: Secured) -> None:
    """Anyone can make a certificate in the operator's name."""
    stranger = issue(secured.directory, "elsewhere", authority=True).sign("operator.test", stem="stranger")
    with pytest.raises((OSError, HTTPException)):  # TLS 1.3: the client hears of it when it reads
        secured.call("GET", "/users", show=stranger)
    ended = secured.clients.sign("ended.test", valid_for=-datetime.timedelta(minutes=5))
    with pytest.raises((OSError, HTTPException)):
        secured.call("GET", "/users", show=ended)


def test_a_revoked_certificate_is_refused_on_kept_and_new_connections(secured: Secured, operator: Issued) -> None:
    """A laptop that was stolen would stay the operator's until its certificate ends."""
    stolen = secured.clients.sign("stolen.test")
    kept = secured.connection(stolen)
    assert call(kept, "GET", "/users") == (200, "")
    replaced(secured.directory / "clients.crl", secured.clients.revocation_list(stolen))
    eventually(lambda: _or_nothing(secured, stolen) == REFUSED, "it is revoked")
    assert secured.call("GET", "/me", show=stolen) == REFUSED, "whatever is asked"
    assert_ended(kept)
    assert secured.call("GET", "/users", show=operator) == (200, "")
    assert secured.call("GET", "/users") == MISSING


def test_a_call_under_way_is_answered_before_its_connection_ends(secured: Secured, operator: Issued) -> None:
    """A change would be half sent and lost whenever somebody's certificate is revoked."""
    body = json.dumps({"name": "Made meanwhile"}).encode()
    kept = secured.connection(operator)
    kept.putrequest("POST", "/api/v1/organizations")
    fields = {"Authorization": f"Bearer {OPERATOR_TOKEN}", "Content-Type": "application/json"}
    for name, value in {**fields, "Content-Length": str(len(body))}.items():
        kept.putheader(name, value)
    kept.endheaders(body[:5])
    renewals = len(secured.events("certificates_renewed"))
    gone = secured.clients.sign("gone.test")
    replaced(secured.directory / "clients.crl", secured.clients.revocation_list(gone))
    eventually(lambda: len(secured.events("certificates_renewed")) > renewals, "another revocation list")
    kept.send(body[5:])
    answer = kept.getresponse()
    assert (answer.status, answer.headers["Connection"]) == (201, "close")
    answer.read()
    assert_ended(kept)


def test_a_renewed_certificate_is_shown_without_a_restart_and_ends_no_connection(
    secured: Secured, operator: Issued
) -> None:
    """Every control plane would have to be restarted every few weeks, and calls under way be lost."""

    def shown() -> int:
        connection = secured.connection()
        der = connection.sock.getpeercert(binary_form=True)
        connection.close()
        return hash(der)

    before, kept = shown(), secured.connection(operator)
    assert call(kept, "GET", "/users") == (200, "")
    fresh = secured.authority.sign("127.0.0.1", stem="renewed")
    replaced(secured.directory / "served.pem", fresh.cert.read_bytes())  # half of it: the key is another's
    eventually(lambda: secured.events("certificates_refused"), "half of a renewal is refused")
    assert "is not the key of this certificate" in str(secured.events("certificates_refused")[-1])
    assert shown() == before
    replaced(secured.directory / "served.key", fresh.key.read_bytes())
    eventually(lambda: shown() != before, "the renewed certificate")
    assert call(kept, "GET", "/users") == (200, ""), "what is asked of clients is as it was"
    kept.close()
    assert secured.events("certificates_renewed")
    assert "PRIVATE KEY" not in "".join(secured.log)


def test_other_authorities_hold_for_who_connects_and_end_who_was_let_in_before(
    secured: Secured, operator: Issued
) -> None:
    """An authority that is no longer trusted would go on letting people in."""
    ours, file = secured.clients.cert.read_bytes(), secured.directory / "clients.pem"
    theirs = issue(secured.directory, "their-authority", authority=True)
    kept = secured.connection(operator)
    assert call(kept, "GET", "/users") == (200, "")
    shutil.copy(secured.directory / "clients.crl", secured.directory / "ours.crl")
    replaced(secured.directory / "clients.crl", theirs.revocation_list())
    replaced(file, theirs.cert.read_bytes())
    other = theirs.sign("another.test")

    def holds() -> bool:
        try:
            return secured.call("GET", "/users", show=other) == (200, "")
        except (OSError, HTTPException):
            return False

    eventually(holds, "their certificates are taken")
    assert_ended(kept)
    with pytest.raises((OSError, HTTPException)):
        secured.call("GET", "/users", show=operator)
    replaced(secured.directory / "clients.crl", (secured.directory / "ours.crl").read_bytes())
    replaced(file, ours)
    eventually(lambda: _or_nothing(secured, operator) == (200, ""), "ours are taken again")


def test_no_connection_is_refused_while_certificates_change(secured: Secured, operator: Issued) -> None:
    """Each renewal would be a short outage. Hands are shaken over each connection here: it was accepted, not only queued."""
    renewals = len(secured.events("certificates_renewed"))
    failed: list[BaseException] = []
    over = threading.Event()

    def connect() -> None:
        while not over.is_set():
            try:
                secured.connection(operator).close()
            except OSError as error:
                failed.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        for number in range(2):
            fresh = secured.authority.sign("127.0.0.1", stem=f"again-{number}")
            replaced(secured.directory / "served.key", fresh.key.read_bytes())
            replaced(secured.directory / "served.pem", fresh.cert.read_bytes())
            wanted = renewals + number + 1
            eventually(lambda wanted=wanted: len(secured.events("certificates_renewed")) >= wanted, "a renewal")  # type: ignore[misc]  # mypy can't type a lambda with a default
    finally:
        over.set()
        thread.join()
    assert failed == []
    assert secured.call("GET", "/users", show=operator) == (200, "")


def test_the_commands_show_a_certificate_and_trust_a_private_authority(secured: Secured, operator: Issued) -> None:
    """Whoever asks for certificates could use no command any more."""
    ca, certificate, key = str(secured.authority.cert), str(operator.cert), str(operator.key)
    url = ("--url", secured.process.url)

    def run(*arguments: str, environment: Mapping[str, str] | None = None) -> Result:
        return CliRunner().invoke(main, ["orgs", "list", *url, *arguments], env={**ENVIRONMENT, **(environment or {})})

    given = run("--ca", ca, "--client-certificate", certificate, "--client-key", key, "--json")
    assert (given.exit_code, given.stderr) == (0, "")
    named = {"OSTIARY_CA": ca, "OSTIARY_CLIENT_CERTIFICATE": certificate, "OSTIARY_CLIENT_KEY": key}
    assert run("--json", environment=named).exit_code == 0
    both = secured.directory / "both.pem"
    both.write_bytes(operator.cert.read_bytes() + operator.key.read_bytes())
    assert run("--ca", ca, "--client-certificate", str(both), "--json").exit_code == 0

    without = run("--ca", ca)
    assert (without.exit_code, "client_certificate_missing" in without.stderr) == (1, True)
    distrusting = run("--client-certificate", certificate, "--client-key", key)
    assert (distrusting.exit_code, "see --ca" in distrusting.stderr) == (1, True)
    stranger = issue(secured.directory, "no-authority").cert
    for arguments, told in (
        (("--ca", str(secured.directory / "none.pem")), "--ca can't be used"),
        (("--ca", ca, "--client-key", key), "--client-certificate, which is not given"),
        (("--ca", ca, "--client-certificate", certificate, "--client-key", ca), "can't be used with its key"),
        (("--ca", ca, "--client-certificate", str(stranger), "--client-key", key), "can't be used with its key"),
    ):
        wrong = run(*arguments)
        assert (wrong.exit_code, told in wrong.stderr) == (2, True), wrong.stderr


def test_a_listener_may_ask_everyone_for_a_certificate(secured: Secured, operator: Issued) -> None:
    """`client_certificate: required`, which is what client_ca means by itself: nobody else gets as far as a request. The file
    that says so is followed as certificates are."""
    file = secured.directory / "gateway.yaml"
    before = file.read_text()
    replaced(file, before.replace("client_certificate: optional", "client_certificate: required").encode())

    def refused() -> bool:
        try:
            secured.call("GET", "/healthz", token=None)
        except (OSError, HTTPException):
            return True
        return False

    eventually(refused, "who shows no certificate is refused")
    assert secured.call("GET", "/users", show=operator) == (200, "")
    replaced(file, before.encode())
    eventually(lambda: not refused(), "it is as it was")
