"""Servers that others wrote, as upstreams: each tells what it has seen, to be compared with what was admitted."""
