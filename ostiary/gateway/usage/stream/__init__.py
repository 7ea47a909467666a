"""Usage through a stream of NATS JetStream, between the gateways and Postgres.

`message` is what is in it, `fitness` whether a stream loses nothing, `connection` how it is spoken to. `sink` is what
shippers write it with, `consumer` what brings it to Postgres, `contents` what `ostiary usage reconcile` and `ostiary usage
stream` see of it. Only `connection` knows the client's library, `nats-py`, which is installed by `pip install
'ostiary[nats]'`."""

from ostiary.gateway.usage.stream.connection import ClientMissing
from ostiary.gateway.usage.stream.sink import StreamSink

__all__ = ["ClientMissing", "StreamSink"]
