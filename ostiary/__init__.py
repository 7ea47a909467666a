"""Ostiary: an API gateway. `core` is what both planes agree on, `gateway` is the data plane, `control_plane` manages it,
`cli` is the one program, `demo` runs all of it on one machine."""

__version__ = "0.1.0"
