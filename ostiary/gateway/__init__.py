"""The data plane. Read `pipeline.py` first: it is the way of one request. `wire` is the HTTP/1.1 engine, `phases` the
steps, `keys`, `limits` and `usage` what they ask, `worker.py` puts one process together, `supervisor.py` runs them."""
