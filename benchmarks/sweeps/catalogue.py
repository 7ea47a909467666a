"""The sweeps there are, by name, in the order in which they are measured and shown."""

from __future__ import annotations

from benchmarks.sweeps import connections, keys, limits, messages, payloads, rates, reloading, schemes

SWEEPS = {
    sweep.name: sweep
    for sweep in (
        payloads.ANSWERS,
        payloads.UPLOADS,
        connections.CONNECTIONS,
        connections.WORKER_COUNTS,
        connections.TLS,
        messages.MESSAGES,
        schemes.SCHEMES,
        limits.LIMITS,
        keys.KEYS,
        reloading.RELOAD,
        rates.LATENCY,
    )
}
