"""What is wrong with a configuration: every mistake, with its place and its mend. No message shows a secret: fields that may
hold one are never shown, and a mistaken value from the environment is shown as it is written, `${NAME}`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Final

# A file with more mistakes is another format, not a file with mistakes; the log must hold the answer.
PROBLEMS_MAX: Final = 200

_SHOWN_MAX = 40

# Comparing a name with more than this many takes longer than the answer is worth: 200 problems would take seconds.
_COMPARED_MAX = 2000

_LISTED_MAX = 12

_password = re.compile(r"://[^/@]*:[^/@]*@").search
_long_words = re.compile(r"[A-Za-z0-9+/_=-]{32,}").findall


def _is_random(word: str) -> bool:
    """Names have words in them; random text changes between letters, capitals and digits all the time."""
    kinds = [(character.isdigit(), character.isupper()) for character in word if character.isalnum()]
    return sum(before != after for before, after in pairwise(kinds)) > len(kinds) // 5


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `line` and `column` count from 1; `path` is the field, as in `routes[0].auth.schemes`, or empty where the
    whole file is meant; `mend` says what to write instead, where that is known."""

    file: str
    line: int
    column: int
    path: str
    message: str
    mend: str | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " + (f"{self.path}: " if self.path else "")
        return f"{where}{self.message}" + (f" ({self.mend})" if self.mend else "")


class ConfigurationError(Exception):
    """A configuration that is refused, with all its problems in the order of the file; `str()` is one line a problem.
    `followed` are other files that were read: a change of them may mend it."""

    def __init__(self, problems: tuple[Problem, ...], *, followed: tuple[str, ...] = ()) -> None:
        super().__init__(problems)
        self.problems = problems
        self.followed = followed

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def shown(text: str) -> str:
    """`text` for a message: quoted, escaped, shortened, and masked where it looks like a secret: one of ours, a URL with a
    password, or what `openssl rand` prints. Whoever types a secret into the wrong field must not find it in the log."""
    if "sk_live_" in text or "sk_test_" in text or _password(text) or any(map(_is_random, _long_words(text))):
        return "(a secret, not shown)"
    return repr(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…")


def suggestion(wrong: str, known: list[str]) -> str | None:
    """The mend for a name that does not exist: the one that was probably meant, or all there are if they are few."""
    if (close := close_name(wrong, known)) is not None:
        return close
    return f"there is {', '.join(sorted(known))}" if 0 < len(known) <= _LISTED_MAX else None


def close_name(wrong: str, known: list[str]) -> str | None:
    """The name that was probably meant, as a question."""
    if len(known) > _COMPARED_MAX:
        return None
    lower = {name.lower(): name for name in known}
    close = get_close_matches(wrong[:100].lower(), list(lower), n=1, cutoff=0.6)
    return f"did you mean {shown(lower[close[0]])}?" if close else None
