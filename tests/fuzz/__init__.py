"""A seeded mutation fuzzer of the engine, in memory: the real gateway and its two protocols, h11 as judge.

`requests.py` spoils what clients send, `answers.py` what upstreams answer; `mutation.py` spoils, `stage.py` runs the gateway
between a client and an origin without sockets, `judging.py` reads what came out with h11. A case that breaks an
invariant raises Finding, whose text is a case for `test_findings.py`. `scripts/prove fuzz` runs it for long."""
