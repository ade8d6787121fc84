"""Writes docs/glossary.md anew: every term of the report's glossary, each other term in its meaning linked.

python docs/glossary_page.py
"""

from __future__ import annotations

import re
from pathlib import Path

from l2l_ray.report.glossary import TERMS, Term

PAGE = Path(__file__).resolve().parent / "glossary.md"
HEAD = """# Glossary

The words of reports, messages and documents, in plain English. Written by `make format` from
`l2l_ray/report/glossary.yaml`; a report ends with those that occur in it. Names in the code are in
[architecture.md](architecture.md).

"""


def page() -> str:
    """Return the whole page."""
    return HEAD + "\n".join(_line(term) for term in TERMS) + "\n"


def _line(term: Term) -> str:
    more = f" More: [{term.page}]({term.page})." if term.page else ""
    return f'- <a id="{_anchor(term)}"></a>**{term.name}**: {_linked(term)}{more}'


def _linked(term: Term) -> str:
    """Link the first mention of every other term; a longer name wins over one inside it."""
    links: dict[str, str] = {}
    text = term.meaning
    for other in sorted(TERMS, key=lambda t: -len(t.name)):
        found = other.pattern.search(text)
        if other is not term and found is not None:
            mark = f"\0{len(links)}\0"  # so that nothing is linked inside a link
            links[mark] = f"[{found[0]}](#{_anchor(other)})"
            text = text[: found.start()] + mark + text[found.end() :]
    for mark, link in links.items():
        text = text.replace(mark, link)
    return text


def _anchor(term: Term) -> str:
    return re.sub(r"\W+", "-", term.name.lower()).strip("-")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
