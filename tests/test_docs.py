"""What the documents name exists: files, functions, config fields, make targets, and the tree is up to date."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from l2l_ray.cli import COMMANDS
from l2l_ray.config import RunConfig, Section

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tree_is_up_to_date() -> None:
    tree = _script("tree")
    assert tree.PAGE.read_text() == tree.page(), "run `make format`"


def test_the_page_of_settings_is_up_to_date() -> None:
    page = _script("config_page")
    assert page.page() == (ROOT / "docs" / "config.md").read_text(), "run `make format`"


def test_the_glossary_is_up_to_date_and_its_links_lead_to_its_terms() -> None:
    page = _script("glossary_page")
    text = page.page()
    assert text == page.PAGE.read_text(encoding="utf-8"), "run `make format`"
    anchors = re.findall(r'<a id="([^"]+)"></a>', text)
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(anchors)


def test_the_measured_part_of_the_results_is_up_to_date() -> None:
    results = _script("results_page")
    assert results.page(results.PAGE.read_text()) == results.PAGE.read_text(), "run `make format`"
    if results.SOURCE.exists():
        for name, svg in results.pictures(json.loads(results.SOURCE.read_text())).items():
            assert (results.PAGE.parent / name).read_text() == svg, "run `make format`"


def test_the_readme_is_a_front_door() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def _names(path: Path) -> set[str]:
    body = ast.parse(path.read_text()).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_every_function_that_is_named_exists(document: Path) -> None:
    for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", document.read_text()):
        path = next((p for p in (ROOT / "l2l_ray" / file, ROOT / file) if p.exists()), None)
        assert path is not None, file
        assert name in _names(path), f"{file}::{name}"


def _has_field(dotted: str) -> bool:
    section: type[Section] = RunConfig
    for part in dotted.split("."):
        field = getattr(section, "model_fields", {}).get(part)
        if field is None:
            return False
        section = field.annotation
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_every_config_field_that_is_named_exists(document: Path) -> None:
    text = document.read_text()
    named = {n for n in re.findall(r"`(\w+\.\w[\w.]*)`", text) if n.split(".")[0] in RunConfig.model_fields}
    named = {n for n in named if not n.endswith((".py", ".json", ".yaml"))} | set(re.findall(r"--(\w+\.[\w.]+)", text))
    assert [name for name in sorted(named) if not _has_field(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_every_command_that_is_named_exists(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    text = document.read_text()
    assert set(re.findall(r"`?make ([a-z-]+)`", text)) <= targets
    assert set(re.findall(r"^(?:`|)l2l (\w+)", text, re.MULTILINE)) <= set(COMMANDS)
    assert all((ROOT / job).exists() for job in re.findall(r"jobs/\w+\.py", text))


ROUTES = {"An optimiser step": 6, "A labelled shard": 7, "A reward term": 5}  # heading -> most files on the way


def _stops(heading: str) -> list[tuple[Path, str]]:
    """Return the numbered stops below a heading of docs/architecture.md: file, and function or Class.method."""
    section = (ROOT / "docs" / "architecture.md").read_text().partition(f"### {heading}\n")[2].partition("\n#")[0]
    found = re.findall(r"^\d+\. `([\w/]+\.py)::([\w.]+)`", section, re.MULTILINE)
    return [(next(p for p in (ROOT / "l2l_ray" / f, ROOT / f) if p.exists()), name) for f, name in found]


def _definition(path: Path, name: str) -> ast.AST:
    node: ast.AST = ast.parse(path.read_text())
    for part in name.split("."):
        node = next(n for n in ast.iter_child_nodes(node) if getattr(n, "name", None) == part)
    return node


@pytest.mark.parametrize("heading", ROUTES)
def test_a_strangers_route_is_short_and_each_stop_is_named_by_an_earlier_one(heading: str) -> None:
    stops = _stops(heading)
    assert len(stops) > 2 and stops[0][0].name == "selfevolve.py", heading
    named: set[str] = set()
    for path, name in stops:
        assert not named or name.rpartition(".")[2] in named, f"no earlier stop names {name}"
        named |= {str(getattr(n, "id", getattr(n, "attr", None))) for n in ast.walk(_definition(path, name))}
    assert len({path for path, _ in stops}) <= ROUTES[heading]


def test_the_messages_that_operations_explain_are_said_somewhere() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    messages = re.findall(r"^\| `([^`]+)` \|", page.partition("## What to do when it says")[2], re.MULTILINE)
    said = "".join(path.read_text() for path in (ROOT / "l2l_ray").rglob("*.py"))
    assert len(messages) > 5 and [message for message in messages if message not in said] == []
