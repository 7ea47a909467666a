"""`usage.sink`: Postgres or a stream; what is wrong is told with its mend, and what is secret is not told."""

from __future__ import annotations

import pytest

from ostiary.core.config.difference import compare
from tests.core.config.loading import VALID, load, only_problem

NATS = "usage: {sink: {nats: {servers: ['nats://gateway:${PASSWORD}@n1.internal:4222', 'tls://n2.internal']}}}\n"
ENVIRONMENT = {"PASSWORD": "the-password-of-nats"}


@pytest.mark.parametrize("text", ["", "usage: {sink: postgres}\n"])
def test_postgres_is_the_default(text: str) -> None:
    """Without it: who changes nothing loses the way their usage goes."""
    assert load(VALID + text).usage.sink is None


def test_a_stream_has_defaults_that_lose_nothing() -> None:
    configuration = load(VALID + NATS, ENVIRONMENT)
    sink = configuration.usage.sink
    assert sink is not None
    assert sink.servers == ("nats://gateway:the-password-of-nats@n1.internal:4222", "tls://n2.internal")
    assert (sink.stream, sink.replicas, sink.message_bytes_max, sink.ack_wait_seconds) == (
        "ostiary_usage",
        1,
        1 << 20,
        30.0,
    )
    assert configuration.metered
    assert not load(VALID).metered
    assert "the-password-of-nats" not in repr(configuration)


@pytest.mark.parametrize(
    ("sink", "field", "message", "mend"),
    [
        ("kafka", "usage.sink", "must be `postgres`", "write nats: with its servers below sink:"),
        ("postgress", "usage.sink", "must be `postgres`", "postgres"),
        ("{}", "usage.sink", "the field 'nats' is missing", "The stream."),
        ("{nats: {}}", "usage.sink.nats", "the field 'servers' is missing", "Servers of the NATS system"),
        ("{nats: {servers: []}}", "usage.sink.nats.servers", "must have 1 to 100 items", ""),
        ("{nats: {servers: ['http://n1:4222']}}", "usage.sink.nats.servers[0]", "must be a URL", "is not shown"),
        (
            "{nats: {servers: ['nats://n1:4222/x']}}",
            "usage.sink.nats.servers[0]",
            "end with the port",
            "nats://host:4222",
        ),
        ("{nats: {servers: ['nats://n1'], stream: a.b}}", "usage.sink.nats.stream", "the name of a stream", ""),
        ("{nats: {servers: ['nats://n1'], replicas: 6}}", "usage.sink.nats.replicas", "from 1 to 5", ""),
        ("{nats: {servers: ['nats://n1'], message_max: 1KiB}}", "usage.sink.nats.message_max", "a size from", ""),
        (
            "{nats: {servers: ['nats://n1'], credentials: no.creds}}",
            "usage.sink.nats.credentials",
            "does not exist",
            "",
        ),
        ("{nats: {servers: ['nats://n1'], tls: {ca: no.pem}}}", "usage.sink.nats.tls.ca", "does not exist", ""),
        ("{nats: {servers: ['nats://n1'], replica: 3}}", "usage.sink.nats", "there is no field 'replica'", "replicas"),
    ],
)
def test_what_is_wrong_is_told_with_its_mend(sink: str, field: str, message: str, mend: str) -> None:
    """Without it: a typing mistake, and usage goes nowhere."""
    problem = only_problem(f"{VALID}usage: {{sink: {sink}}}\n")
    assert problem.path == field
    assert message in problem.message
    assert mend in (problem.mend or "")


@pytest.mark.parametrize("secret", ["gateway:pass-word-of-nats@", "token-of-nats-0123@"])
def test_passwords_and_tokens_are_not_shown(secret: str) -> None:
    """Row 132: without it, a mistake elsewhere in the file prints them."""
    word = secret.rstrip("@").rpartition(":")[2]
    problem = only_problem(f"{VALID}usage: {{sink: {{nats: {{servers: ['nats://{secret}n1'], stream: '{word}!'}}}}}}\n")
    assert word not in str(problem)


def test_a_change_is_told_without_secrets_and_takes_a_restart() -> None:
    """Without it: `config diff` prints a password, or promises at a reload what comes with a restart."""
    (change,) = compare(load(VALID), load(VALID + NATS, ENVIRONMENT))
    assert change.field == "usage.sink"
    assert (
        change.after == "the stream ostiary_usage of nats://n1.internal:4222, tls://n2.internal, on at least 1 of them"
    )
    assert "restart" in (change.meaning or "")
    (change,) = compare(load(VALID + NATS, ENVIRONMENT), load(VALID + NATS, {"PASSWORD": "another-password"}))
    assert "password" not in str(change)
