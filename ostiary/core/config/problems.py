"""What is wrong with a configuration: every mistake, with its place and its mend. No message shows a secret: fields that may
hold one are never shown, a mistaken value from the environment is shown as it is written, `${NAME}`, and what was typed into
another field is not shown if it looks like a secret, or is one that stands elsewhere in the file (`Reading.is_secret`)."""

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

NOT_SHOWN: Final = "(a secret, not shown)"

_password = re.compile(r"://[^/@]*:[^/@]*@").search
# What secrets begin with: ours, PEM, JWT, headers with credentials, and tokens of Vault, GitHub, GitLab, Slack and AWS.
_known_form = re.compile(
    r"sk_(?:live|test)_|-----BEGIN|\beyJ[A-Za-z0-9_-]{6}|\b(?:[Bb]earer|[Bb]asic)\s+\S|\bhv[sbr]\.|\bgh[opsu]_|\bgithub_pat_"
    r"|\bglpat-|\bxox[abp]-|\b(?:AKIA|ASIA)[0-9A-Z]{8}"
).search
_long_words = re.compile(r"[A-Za-z0-9+/_=-]{32,}").findall
_words = re.compile(r"[A-Za-z0-9]{8,}").findall
# Signs that people put into passwords, after a letter or a digit: not those of hosts, networks, paths, times and lists.
_password_sign = re.compile(r"[A-Za-z0-9][!@#$^&~+=](?!\{)").search
# Four words are the least that a passphrase has. With blanks between them no name has so many; with dashes some names do.
_phrase = re.compile(r"[A-Za-z]{2,}(?:[ ,;]+[A-Za-z]{2,}){3,}").search
_dashed_phrase = re.compile(r"[A-Za-z]{3,}(?:[-_.][A-Za-z]{3,}){3,}").fullmatch
_digit, _letter = re.compile(r"[0-9]").search, re.compile(r"[A-Za-z]").search


def _is_random(word: str) -> bool:
    """Names have words in them; random text changes between letters, capitals and digits all the time."""
    kinds = [(character.isdigit(), character.isupper()) for character in word if character.isalnum()]
    return sum(before != after for before, after in pairwise(kinds)) > len(kinds) // 5


def looks_secret(text: str) -> bool:
    """Whether `text` may be a secret: a known form, a URL with a password, random characters, letters and digits in one word,
    the signs of a password, or four plain words and more. Errs on the side of saying yes: the line and the field are told in
    any case. A passphrase with dashes between its words looks like a name (see `shown_value`)."""
    return (
        _known_form(text) is not None
        or _password(text) is not None
        or any(map(_is_random, _long_words(text)))
        or any(_is_random(word) or (_digit(word) and _letter(word)) for word in _words(text))
        or _password_sign(text) is not None
        or _phrase(text) is not None
    )


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
    """`text` for a message: quoted, escaped, shortened, and masked where it looks like a secret. Whoever types a secret into
    the wrong field must not find it in the log."""
    if looks_secret(text):
        return NOT_SHOWN
    return repr(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…")


def shown_value(text: str) -> str:
    """What `shown` says, of a text that is not even of the kind that its field takes. No name is looked for there, so what
    looks like a passphrase with dashes is taken for one."""
    return NOT_SHOWN if _dashed_phrase(text) is not None else shown(text)


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
