"""One thing at a time is changed, and all else stays (`scripts/bench sweeps`): how do the figures move with it?

`sweep.py` says what a sweep is, `catalogue.py` names those there are; each stands in a module with its own load.
`measuring.py` runs them with the harness of the scenarios (`benchmarks/measure.py`), `report.py` makes text, JSON and a part
of `docs/performance.md` of them, `plot.py` draws."""
