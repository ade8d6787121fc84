"""The words of a report in plain English, for somebody who has not read the paper.

One list, `glossary.yaml`, is for page and docs.

A report ends with the terms that occur in it (`occurring`); `docs/glossary.md` has them all (`docs/glossary_page.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Term:
    """A word and what it means.

    Args:
        name: The word.
        meaning: One or two sentences.
        forms: Regular expression of how it is written in running text, letter case aside; empty = the name.
        page: File of docs/ that says more; empty = none.

    Example: `Term("IoU", "How well two masks overlap.").occurs_in("mean IoU")` is true.
    """

    name: str
    meaning: str
    forms: str = ""
    page: str = ""

    @property
    def pattern(self) -> re.Pattern[str]:
        """Finds the term as a whole word."""
        return re.compile(rf"(?<![\w-])(?:{self.forms or re.escape(self.name)})(?![\w-])", re.IGNORECASE)

    def occurs_in(self, text: str) -> bool:
        """Whether the text uses the term."""
        return self.pattern.search(text) is not None


def _read() -> tuple[Term, ...]:
    found = yaml.safe_load((Path(__file__).parent / "glossary.yaml").read_text(encoding="utf-8"))
    return tuple(Term(**term) for term in found)


TERMS = _read()


def occurring(text: str) -> list[Term]:
    """Return the terms that a text uses, by alphabet."""
    return [term for term in TERMS if term.occurs_in(text)]
