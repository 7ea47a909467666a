"""Usage through a stream."""
