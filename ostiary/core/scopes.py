"""Scopes: what a caller has, what a call needs, and when the one covers the other.

A scope covers itself. One of a key's that ends in `:*` covers every scope below what stands before the star: `clients:*`
covers `clients:read` and `clients:read:own`, and not `clients` or `clientsX:read`. `*` alone covers everything. Anywhere
else a star is a character like others. What a token carries covers itself alone: who issues tokens to anybody may let them
choose the words."""

from __future__ import annotations

from collections.abc import Iterable

EVERYTHING = "*"
WILDCARD = ":*"


def covers(granted: frozenset[str], needed: str) -> bool:
    """Whether one of the scopes `granted` to a caller is `needed`, or a wildcard above it."""
    if needed in granted or EVERYTHING in granted:
        return True
    return any(
        scope.endswith(WILDCARD) and len(needed) >= len(scope) and needed.startswith(scope[:-1]) for scope in granted
    )


def missing(granted: frozenset[str], all_of: Iterable[str], any_of: Iterable[str]) -> tuple[str, ...]:
    """What a caller lacks: those of `all_of` that nothing covers, and all of `any_of` where nothing covers one of them."""
    lacking = [scope for scope in sorted(all_of) if not covers(granted, scope)]
    alternatives = sorted(any_of)
    if alternatives and not any(covers(granted, scope) for scope in alternatives):
        lacking.append(" or ".join(alternatives))
    return tuple(lacking)


def is_wildcard(scope: str) -> bool:
    return scope == EVERYTHING or scope.endswith(WILDCARD)
