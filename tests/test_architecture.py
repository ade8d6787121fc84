"""Which way dependencies point: one test per rule of docs/architecture.md, and the habits a parser can check."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "l2l_ray"
FOUNDATION = ("confidence", "config", "device", "errors", "intervals", "metrics", "randomness", "types")
ROOMS = ("data", "prior", "segmenter", "selector")
JOINING = ("loop", "embedded", "report", "predictor", "cli")
HEAVY = ("torch", "transformers", "ray", "pandas", "pyarrow", "matplotlib")


def _imports(path: Path) -> set[str]:
    """Return every module a file imports, wherever the statement stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name, so that rules can be read off it"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _files(*places: str) -> list[Path]:
    """Return the Python files of folders and single modules of the package."""
    found = [p for place in places for p in ((PACKAGE / place).rglob("*.py"))]
    return sorted(found + [p for place in places if (p := PACKAGE / f"{place}.py").exists()])


def _ours(path: Path) -> set[str]:
    """Return the top-level parts of the package that a file imports."""
    return {name.split(".")[1] for name in _imports(path) if name.startswith("l2l_ray.")}


def _uses_ray(path: Path) -> bool:
    return any(name.split(".")[0] == "ray" for name in _imports(path))


@pytest.mark.parametrize("path", _files(*FOUNDATION), ids=lambda p: p.stem)
def test_foundation_imports_no_room_but_the_config_the_table_of_selectors(path: Path) -> None:
    rooms = {name for name in _imports(path) if name.startswith("l2l_ray.") and name.split(".")[1] not in FOUNDATION}
    if "config" in path.relative_to(PACKAGE).with_suffix("").parts:
        rooms = {name for name in rooms if not name.startswith("l2l_ray.selector.registry")}
    assert not rooms


def test_the_table_of_selectors_imports_errors_alone() -> None:
    assert {name for name in _top_level(PACKAGE / "selector/registry.py") if "l2l_ray" in name} == {"l2l_ray.errors"}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_the_foundation_alone_and_never_one_another(room: str) -> None:
    files = _files(room)
    assert files, f"there is no l2l_ray/{room}"
    for path in files:
        assert _ours(path) <= {*FOUNDATION, room}, path


@pytest.mark.parametrize("part", [*FOUNDATION, *ROOMS, *JOINING])
def test_only_actors_import_ray(part: str) -> None:
    for path in _files(part):
        assert not _uses_ray(path), path
        if part != "cli":
            assert "actors" not in _ours(path), path


def test_every_part_of_the_package_has_a_rule() -> None:
    parts = {p.stem if p.is_file() else p.name for p in PACKAGE.iterdir() if p.suffix == ".py" or list(p.glob("*.py"))}
    assert parts - {"__init__", "actors"} == {*FOUNDATION, *ROOMS, *JOINING}


def _top_level(path: Path) -> set[str]:
    """Return what importing the file imports."""
    body = ast.parse(path.read_text()).body
    nodes = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)]
    return {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names} | {
        n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)
    }


JOBS = sorted((ROOT / "jobs").glob("*.py"))


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_jobs_import_actors_inside_main_and_never_ray(path: Path) -> None:
    assert not any(name.startswith("l2l_ray.actors") for name in _top_level(path))
    assert not _uses_ray(path)


@pytest.mark.parametrize("path", [p for p in JOBS if p.stem in ("pretrain_embedded", "prepare", "evaluate")], ids=str)
def test_jobs_without_a_cluster_never_touch_the_ray_layer(path: Path) -> None:
    assert "actors" not in _ours(path)


def test_nothing_private_of_ray_is_used() -> None:
    for path in _files("actors") + sorted((ROOT / "tune_spaces").glob("*.py")):
        private = [n for n in _imports(path) if n.startswith("ray.") and any(p.startswith("_") for p in n.split("."))]
        assert not private, path
        assert "ray._private" not in path.read_text(), path


def _importers(module: str) -> set[str]:
    return {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if module in _imports(path)}


def test_only_the_preparation_the_evaluation_of_labels_and_l2l_data_open_a_data_set() -> None:
    assert _importers("l2l_ray.data.refer") == {"loop/state/prepare.py", "datatools/commands.py"}
    openers = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if "open_dataset" in path.read_text()}
    assert openers == {"loop/state/prepare.py", "loop/evaluation/hidden_truth.py"}


def test_hidden_truth_reaches_evaluation_alone() -> None:
    assert _importers("l2l_ray.loop.evaluation.hidden_truth") == {"loop/evaluation/evaluate.py"}
    assert not [path for path in PACKAGE.rglob("*.py") if "HiddenTruth" in path.read_text()]  # the oracle's reader


def _new_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_cli_starts_without_heavy_imports() -> None:
    loaded = _new_python("import sys, l2l_ray.cli; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert not set(loaded) & set(HEAVY)


def test_cli_starts_in_well_under_a_second() -> None:
    # The interpreter's own start is taken off and the best of three counts: a busy machine must not fail the test.
    def seconds(code: str) -> float:
        started = time.perf_counter()
        _new_python(code)
        return time.perf_counter() - started

    bare = min(seconds("pass") for _ in range(3))
    assert min(seconds("import l2l_ray.cli") for _ in range(3)) - bare < 0.7


def test_the_method_imports_where_ray_is_absent() -> None:
    code = "import sys; sys.modules['ray'] = None; import l2l_ray.loop.local, l2l_ray.predictor; print('fine')"
    assert _new_python(code).strip() == "fine"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_file_opens_with_its_design_note_and_prints_nowhere_else(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    if not (path.stem == "cli" or "report" in path.parts):
        assert not [call.lineno for call in calls if call.func.id == "print"]  # type: ignore[attr-defined]
