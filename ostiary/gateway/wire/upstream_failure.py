"""How an upstream that was asked may give no whole answer. (One that could not be reached: `dialing.ConnectFailed`.)"""

from __future__ import annotations


class UpstreamFailure(Exception):
    """The upstream gave no whole answer. `answered` says whether any byte of one had come."""

    def __init__(self, reason: str, *, answered: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answered = answered


class UpstreamReset(UpstreamFailure):
    """The connection ended. Before any byte of an answer this may be a kept connection that the upstream had given up."""


class UpstreamGarbled(UpstreamFailure):
    """What came is not valid HTTP/1.1."""


class UpstreamSilent(UpstreamFailure):
    """Nothing came in time."""
