"""Writes the README's tree anew: one line per file, its purpose read from the first line of its docstring.

python docs/readme_tree.py
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- tree: written by docs/readme_tree.py -->\n```text\n", "```\n<!-- end of tree -->"
FOLDERS = ("l2l_ray", "jobs", "tune_spaces", "benchmarks", "docs")
TESTS = (
    "tests/  mirrors l2l_ray/; actors, chaos and e2e run the whole loop, in one process, on Ray, and through kills\n"
)


def purpose(path: Path) -> str:
    """Return the first line of a file's docstring, without the full stop."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0].rstrip(".")


def tree() -> str:
    """Return the tree as text."""
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
    return "\n".join(lines) + "\n" + TESTS


def updated(readme: str) -> str:
    """Return the README with its tree replaced."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + tree() + END + after


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text()))
