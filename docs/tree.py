"""Writes docs/tree.md anew: one line per file, its purpose read from the first line of its docstring.

python docs/tree.py
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tree.md"
FOLDERS = ("jobs", "l2l_ray", "tune_spaces", "benchmarks", "docs")
HEAD = """# The tree

One line per file, from its docstring; written by `make format`. Where to start reading is in the
[README](../README.md), which way dependencies point in [architecture.md](architecture.md).

```text
"""
TESTS = (
    "tests/  mirrors l2l_ray/; actors, chaos and e2e run the whole loop, in one process, on Ray, and through kills\n"
)


def purpose(path: Path) -> str:
    """Return the first line of a file's docstring, without the full stop."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0].rstrip(".")


def page() -> str:
    """Return the whole page."""
    lines: list[str] = []
    for folder in FOLDERS:
        files = sorted((ROOT / folder).rglob("*.py"), key=lambda p: (p.parent, p.name != "__init__.py", p.name))
        for path in files:
            if path.name == "__init__.py":
                lines.append(f"{path.parent.relative_to(ROOT)}/  {purpose(path)}".rstrip())
            else:
                lines.append(f"    {path.name:<28}{purpose(path)}")
            if path == files[0] and path.name != "__init__.py":
                lines.insert(len(lines) - 1, f"{folder}/")
    return HEAD + "\n".join(lines) + "\n" + TESTS + "```\n"


if __name__ == "__main__":
    PAGE.write_text(page())
