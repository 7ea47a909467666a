"""Tokens of outside issuers, as the request path asks: who is the caller of this JWT?

`ring` is what the request path talks to: it remembers the tokens that were verified, and verifies the others. `issuer_keys`
keeps the keys of an issuer current; `fetch` is one fetch of its document, `record` what the workers of a node share of it, in
a file that outlives them."""

from ostiary.gateway.tokens.ring import TokenCaller, TokenRing

__all__ = ["TokenCaller", "TokenRing"]
