"""What both planes must agree on: the model, configuration, credentials, signatures, limits, errors, names in Redis.

Pure: no sockets, SQL, Redis or asyncio (held by an import contract in `scripts/check`)."""
