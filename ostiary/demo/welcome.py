"""What a demo prints when it is up: addresses, and lines to paste that show what the gateway does."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from ostiary.core.signing import sign_request
from ostiary.demo.configuration import SMALL_PLAN_REQUESTS, Ports
from ostiary.demo.provisioning import DemoKeys, MadeKey


@dataclass(frozen=True, slots=True)
class Place:
    """Where a demo runs. `program` is how its user calls `ostiary`; `kept` is set with --data."""

    ports: Ports
    program: str
    directory: Path
    kept: bool


def welcome(place: Place, keys: DemoKeys, *, seconds: float, notes: tuple[str, ...]) -> str:
    """The whole text. It holds secrets: it is for the terminal of whoever started the demo, and for no log."""
    gateway = f"http://127.0.0.1:{place.ports.gateway}"
    control_plane = f"http://127.0.0.1:{place.ports.control_plane}"
    admin = f"http://127.0.0.1:{place.ports.admin}"
    token_file = shlex.quote(str(place.directory / "operator-token"))
    sign = f"{place.program} sign"
    calls = " ".join(str(number) for number in range(1, SMALL_PLAN_REQUESTS + 2))
    lines = [
        f"Ostiary is up, {seconds:.1f} s after its start. " + _how_it_ends(place),
        *(f"Note: {note}" for note in notes),
        "",
        f"  gateway        {gateway}",
        f"  control plane  {control_plane}/api/v1    API documentation: {control_plane}/docs",
        f"  metrics        {admin}/metrics    health: {admin}/status",
        f"  configuration  {place.directory / 'ostiary.yaml'}",
        "",
        "Paste these lines into another terminal.",
        "",
        "1. A bearer key: 200",
        bearer_line(f"{gateway}/v1/clients", keys.live),
        "",
        "2. A signed call: 200. The same line again is a replay: 401 nonce_replayed. (Good for 300 seconds.)",
        signed_line(gateway, "/v1/clients/1", keys.live),
        "",
        "3. A byte changed on the way: signed for /v1/clients/1, sent to /v1/clients/2: 401 credentials_invalid",
        signed_line(gateway, "/v1/clients/1", keys.live, sent_to="/v1/clients/2"),
        "",
        f"4. {SMALL_PLAN_REQUESTS} calls a minute: the next one answers 429 with Retry-After",
        f"for i in {calls}; do {bearer_line(f'{gateway}/v1/weddings', keys.small)}; echo; done",
        "",
        "5. A test key sees the sandbox, never live data: 200, with one client",
        bearer_line(f"{gateway}/v1/clients", keys.test),
        "",
        "6. Sign as many calls as you like, with a body too",
        f"export OSTIARY_SECRET={keys.live.secret}",
        f'eval "$({sign} GET {gateway}/v1/weddings --key-id {keys.live.id} --curl) -i"',
        f"""eval "$({sign} POST {gateway}/v1/clients --key-id {keys.live.id} --curl \\""",
        """    --body '{"name": "Rosa Diaz", "email": "rosa@example.com"}') -i\"""",
        "",
        "7. The control plane: today's usage, and an end to the key of 1 and 2 (401 within a second)",
        f'export OSTIARY_URL={control_plane} OSTIARY_OPERATOR_TOKEN="$(cat {token_file})"',
        f"{place.program} usage daily --app {keys.app_id}",
        f"{place.program} keys revoke {keys.live.id} --reason 'seen in a log'",
    ]
    if keys.earlier:
        lines += ["", f"Keys of earlier starts that still work: {', '.join(keys.earlier)}"]
    return "\n".join(lines) + "\n"


def bearer_line(url: str, key: MadeKey) -> str:
    return f"curl -i {url} -H {shlex.quote(f'Authorization: Bearer {key.secret}')}"


def signed_line(gateway: str, target: str, key: MadeKey, *, sent_to: str | None = None) -> str:
    """Signed now for `target`; sent there, or to another target to show that this is noticed."""
    headers = sign_request(key_id=key.id, secret=key.secret.encode(), method="GET", target=target)
    shown = " ".join(f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers.items())
    return f"curl -i {gateway}{sent_to or target} {shown}"


def _how_it_ends(place: Place) -> str:
    if place.kept:
        return f"Ctrl-C ends it; its data stays in {place.directory}."
    return "Ctrl-C ends it and leaves nothing behind."
