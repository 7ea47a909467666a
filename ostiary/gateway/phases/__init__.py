"""The steps of the request path, one module each, in this order:

admit, match, (in overload shed,) authenticate, authorize, limit, prepare, forward, respond; and, whatever happens, fail (the
one place where an error becomes an answer) and record (once for every exchange). `pipeline.py` is the path itself."""
