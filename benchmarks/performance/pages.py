"""Pages with parts that are made of results, and text around them that people keep."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# As the bench wrote it.
Results = Mapping[str, Any]

# What a document of each kind has that no other has.
KINDS = {"table": "table", "sweeps": "sweeps"}


class UnusableResults(ValueError):
    """A file that no part can be made of; or a page without a part's place. The message says which."""


@dataclass(frozen=True, slots=True)
class Part:
    """What stands on `page` between `<!-- NAME … -->` and `<!-- end of NAME -->`.

    `make` gets the results of its `kind`, of which there is at least one, and a folder for the files that it draws: the page
    links to them in its own folder `performance/`. It gives Markdown."""

    name: str
    page: str
    kind: str
    make: Callable[[Sequence[Results], Path], str]


@dataclass(frozen=True, slots=True)
class Site:
    """The pages of a checkout, and where its results are kept."""

    root: Path

    @property
    def kept(self) -> Path:
        return self.root / "docs" / "performance"

    def results(self, kind: str) -> list[Results]:
        return [json.loads(path.read_text(encoding="utf-8")) for path in self._files(kind)]

    def keep(self, files: Sequence[Path]) -> None:
        """These are the results of their kinds from now on, and no others. Raises UnusableResults before anything is
        changed."""
        fresh: dict[str, list[str]] = {}
        for file in files:
            text = file.read_text(encoding="utf-8")
            fresh.setdefault(kind_of(file.name, json.loads(text)), []).append(text)
        self.kept.mkdir(exist_ok=True)
        for kind, texts in fresh.items():
            for old in self._files(kind):
                old.unlink()
            for number, text in enumerate(texts, start=1):
                (self.kept / f"{kind}-{number}.json").write_text(text, encoding="utf-8")

    def _files(self, kind: str) -> list[Path]:
        return sorted(self.kept.glob(f"{kind}-*.json"))

    def write(self, parts: Sequence[Part]) -> None:
        """Makes every part of which there are results."""
        for page, text in self._pages(parts, self.kept).items():
            (self.root / page).write_text(text, encoding="utf-8")

    def stale(self, parts: Sequence[Part]) -> list[str]:
        """Files that are not what the kept results make of them."""
        with tempfile.TemporaryDirectory() as name:
            drawn = Path(name)
            made = self._pages(parts, drawn)
            stale = [page for page, text in made.items() if (self.root / page).read_text(encoding="utf-8") != text]
            for file in sorted(drawn.iterdir()):
                kept = self.kept / file.name
                if not kept.exists() or kept.read_bytes() != file.read_bytes():
                    stale.append(str(kept.relative_to(self.root)))
        return stale

    def _pages(self, parts: Sequence[Part], directory: Path) -> dict[str, str]:
        pages: dict[str, str] = {}
        for part in parts:
            if results := self.results(part.kind):
                text = pages.get(part.page) or (self.root / part.page).read_text(encoding="utf-8")
                pages[part.page] = with_part(text, part, part.make(results, directory))
        return pages


def kind_of(name: str, document: Results) -> str:
    """Raises UnusableResults for what is not from the bench, or from a run that shows only that it works."""
    if document.get("quick"):
        raise UnusableResults(f"{name} is of a --quick run: its figures mean nothing")
    for kind, field in KINDS.items():
        if field in document:
            return kind
    raise UnusableResults(f"{name} has no results of {' or '.join(KINDS)}")


def with_part(page: str, part: Part, made: str) -> str:
    """The page with the part in its place. Raises UnusableResults when it has none."""
    place = re.compile(rf"(<!-- {part.name}\b[^>]*-->\n).*?(<!-- end of {part.name} -->)", flags=re.DOTALL)
    text, found = place.subn(lambda match: f"{match[1]}{made.strip()}\n{match[2]}", page)
    if found != 1:
        raise UnusableResults(f"{part.page} has {found} places for `{part.name}`, and needs one: <!-- {part.name} -->")
    return text
