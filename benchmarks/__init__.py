"""Against peers (`scripts/bench`), and parts of the gateway by themselves (`scripts/bench phases`).

A *side* is one contestant: Ostiary or a peer. A *scenario* puts several sides before the same load. Read `measure.py` for
how a figure comes about, `scenarios.py` for what is compared and which ratio is asked for, `peers/` for the peers'
configurations, `docs/benchmarks.md` for what the figures mean and what they do not."""
