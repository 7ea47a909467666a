"""The HTTP/1.1 engine: two asyncio protocols and what they share.

`client.py` is the side towards callers (its states stand as a table in `states.py`), `upstream.py` the side towards the
services, `pool.py` keeps connections to them. `request_head.py`, `response_head.py` and `chunked.py` parse without I/O:
bytes in, values or a refusal out. `deadlines.py` ends what takes too long, `surroundings.py` says what connections need of
the gateway. RFC 9110 and 9112 throughout; where they let a recipient choose between repairing and refusing, this engine
refuses."""
