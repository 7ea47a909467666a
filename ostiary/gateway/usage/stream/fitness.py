"""Whether a stream keeps what it acknowledges until a consumer has written it, and how one that does is made."""

from __future__ import annotations

from typing import Any

from ostiary.core.usage import NatsStream

# Retries after an acknowledgement that was lost come within seconds. The ledger is what keeps the rest from counting twice.
_DEDUPLICATION_SECONDS = 120
_SECOND_NS = 1_000_000_000

CONSUMER = "ostiary_writer"
ACK_WAIT_SECONDS = (
    30.0  # a message whose consumer was killed comes again after that; one in work says so every third of it
)
# Messages in the hands of all consumers together: past that, the server waits for them.
ACK_PENDING_MAX = 256


def subjects_of(stream: str) -> str:
    return f"{stream}.>"


def stream_configuration(settings: NatsStream, *, bytes_max: int) -> dict[str, Any]:
    """What `ostiary usage stream --create` asks for. `bytes_max` bounds it; past that, publishers are refused and spools
    grow."""
    return {
        "name": settings.stream,
        "subjects": [subjects_of(settings.stream)],
        "retention": "workqueue",
        "storage": "file",
        "discard": "new",
        "num_replicas": settings.replicas,
        "max_bytes": bytes_max,
        "max_msgs": -1,
        "max_age": 0,
        "max_consumers": -1,
        "duplicate_window": _DEDUPLICATION_SECONDS * _SECOND_NS,
    }


def consumer_configuration(settings: NatsStream) -> dict[str, Any]:
    return {
        "durable_name": CONSUMER,
        "name": CONSUMER,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(settings.ack_wait_seconds * _SECOND_NS),
        "max_ack_pending": ACK_PENDING_MAX,
        "max_deliver": -1,
        "replay_policy": "instant",
    }


def unfit_stream(settings: NatsStream, configuration: dict[str, Any]) -> list[str]:
    """What of a stream could lose usage or does not do, each with its mend; empty if all is well. `configuration` is as the
    server tells it."""
    get = configuration.get
    subjects, size_max = subjects_of(settings.stream), get("max_msg_size", -1)
    problems = []
    if get("retention") != "workqueue":
        problems.append(
            f"its retention is {get('retention')}; it must be workqueue, which keeps a message until it was written and no "
            "longer (it can't be changed: make a stream of another name)"
        )
    if get("storage") != "file":
        problems.append(f"its storage is {get('storage')}; it must be file (make a stream of another name)")
    if get("discard") != "new":
        problems.append(
            "at its bounds it discards old messages, which nobody has written yet; nats stream edit --discard new"
        )
    if get("max_age"):
        problems.append("it drops messages by age (max_age); nats stream edit --max-age 0")
    if get("persist_mode", "default") not in ("", "default"):
        problems.append("it acknowledges what is not in its file yet (persist_mode); make a stream with the default")
    if get("num_replicas", 1) < settings.replicas:
        problems.append(
            f"it is kept on {get('num_replicas', 1)} servers, and usage.sink.nats.replicas asks for {settings.replicas}; "
            f"nats stream edit --replicas {settings.replicas}"
        )
    if subjects not in (get("subjects") or []):
        problems.append(f"it does not listen to {subjects}; nats stream edit --subjects '{subjects}'")
    if get("no_ack"):
        problems.append("it acknowledges nothing (no_ack); nats stream edit --ack")
    if get("sealed"):
        problems.append("it is sealed and takes nothing more; make a stream of another name")
    if get("mirror"):
        problems.append("it is a mirror of another and takes nothing; name the other one")
    if get("subject_transform"):
        problems.append("it changes subjects (subject_transform), which reconciliation reads; remove that")
    if 0 < size_max < settings.message_bytes_max:
        problems.append(
            f"it takes messages of at most {size_max} bytes, and usage.sink.nats.message_max is "
            f"{settings.message_bytes_max}; nats stream edit --max-msg-size -1, or lower message_max"
        )
    return problems


def unfit_consumer(settings: NatsStream, configuration: dict[str, Any]) -> list[str]:
    """The same of the consumer, should somebody else have made it."""
    get = configuration.get
    mend = f"nats consumer rm {settings.stream} {CONSUMER}; it is made again"
    problems = []
    if get("ack_policy") != "explicit":
        problems.append(f"it takes messages as acknowledged that are not (ack_policy {get('ack_policy')}); {mend}")
    if get("max_deliver", -1) > 0:
        problems.append(f"it gives a message up after {get('max_deliver')} deliveries; {mend}")
    if get("deliver_subject"):
        problems.append(f"it pushes messages, and they are pulled; {mend}")
    filters = [each for each in (get("filter_subject"), *(get("filter_subjects") or [])) if each]
    if filters not in ([], [subjects_of(settings.stream)]):
        problems.append(f"it sees some subjects alone; {mend}")
    if get("headers_only"):
        problems.append(f"it leaves the content of messages out; {mend}")
    return problems
