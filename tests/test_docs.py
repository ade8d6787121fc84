"""What the documents name exists: files, functions, config fields, make targets, and the tree is up to date."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from l2l_ray.cli import COMMANDS
from l2l_ray.config import RunConfig, Section

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text()


def _writer(name: str) -> Any:
    """Return a script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_prints_the_tree_as_it_is() -> None:
    assert _writer("readme_tree").updated(README) == README, "run `make format`"


def test_the_page_of_settings_is_up_to_date() -> None:
    assert _writer("config_page").page() == (ROOT / "docs" / "config.md").read_text(), "run `make format`"


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
    named = {n for n in named if not n.endswith(".py")} | set(re.findall(r"--(\w+\.[\w.]+)", text))
    assert [name for name in sorted(named) if not _has_field(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_every_command_that_is_named_exists(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    text = document.read_text()
    assert set(re.findall(r"`?make ([a-z-]+)`", text)) <= targets
    assert set(re.findall(r"^(?:`|)l2l (\w+)", text, re.MULTILINE)) <= set(COMMANDS)
    assert all((ROOT / job).exists() for job in re.findall(r"jobs/\w+\.py", text))
