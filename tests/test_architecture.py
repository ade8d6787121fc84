"""Which way dependencies point: one test per rule of docs/architecture.md, and the habits a parser can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "l2l_ray"
FOUNDATION = (
    *("calibration", "checkpoints", "confidence", "config", "device", "doubt", "errors", "files", "guarantee"),
    *("intervals", "job", "jsonl", "metrics"),
    *("plain_text", "processes", "randomness", "storage", "types", "wording"),
)
# What each part may import besides the foundation and itself.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "data": (),
    "refshapes": (),
    "prior": (),
    "segmenter": (),
    "selector": (),
    "datatools": ("data", "review"),  # of the review its journal
    "embedded": ("refshapes", "prior", "segmenter"),
    "report": ("selector", "review"),  # the registry: names for people and plot styles; the journal
    "loop": ("data", "refshapes", "prior", "segmenter", "selector", "datatools", "report"),
    "sweep": ("loop", "report"),
    "predictions": ("data",),
    "saved_model": ("segmenter", "loop"),
    "predictor": ("data", "prior", "segmenter", "loop", "predictions", "saved_model"),
    "serving": ("data", "prior", "loop", "predictions", "predictor"),
    "review": ("data", "datatools", "prior", "loop", "predictor", "serving"),
    "actors": (
        "prior",
        "selector",
        "loop",
        "sweep",
        "predictions",
        "predictor",
        "serving",
        "review",
    ),  # of selector the registry: who learns, who labels
    "label": ("data", "datatools", "loop"),
    "overview": ("loop", "report", "sweep"),
    "run_commands": ("segmenter", "loop", "overview", "predictor", "report", "review", "saved_model"),
    "cli": ("datatools", "label", "loop", "predictions", "predictor", "refshapes", "run_commands"),
}
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
    return {name.split(".")[1] for name in _imports(path) if name.startswith("l2l_ray.")} - {"__version__"}


def _uses_ray(path: Path) -> bool:
    return any(name.split(".")[0] == "ray" for name in _imports(path))


@pytest.mark.parametrize("path", _files(*FOUNDATION), ids=lambda p: p.stem)
def test_the_foundation_imports_no_other_part_but_the_config_the_list_of_selectors(path: Path) -> None:
    parts = {name for name in _imports(path) if name.startswith("l2l_ray.") and name.split(".")[1] not in FOUNDATION}
    if "config" in path.relative_to(PACKAGE).with_suffix("").parts:
        parts = {name for name in parts if not name.startswith("l2l_ray.selector.registry")}
    assert not parts


def test_the_list_of_selectors_imports_errors_alone() -> None:
    assert {name for name in _top_level(PACKAGE / "selector/registry.py") if "l2l_ray" in name} == {"l2l_ray.errors"}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_each_part_imports_what_lies_below_it_alone(part: str) -> None:
    files = _files(part)
    assert files, f"there is no l2l_ray/{part}"
    for path in files:
        assert _ours(path) <= {*FOUNDATION, part, *MAY_IMPORT[part]}, path


@pytest.mark.parametrize("part", ["report", "actors"])
def test_of_the_selectors_report_and_actors_import_the_registry_alone(part: str) -> None:
    found = {name for path in _files(part) for name in _imports(path) if name.startswith("l2l_ray.selector")}
    assert {name for name in found if not name.startswith("l2l_ray.selector.registry")} == set()


@pytest.mark.parametrize("part", ["report", "datatools"])
def test_of_the_review_report_and_datatools_import_the_journal_alone(part: str) -> None:
    found = {name for path in _files(part) for name in _imports(path) if name.startswith("l2l_ray.review")}
    assert found and {name for name in found if not name.startswith("l2l_ray.review.journal")} == set()
    for path in (PACKAGE / "review").glob("journal*.py"):
        assert _ours(path) <= {*FOUNDATION, "review"}
        assert {name for name in _imports(path) if name.startswith("l2l_ray.review")} <= _journals()


def _journals() -> set[str]:
    """Return the modules of the review's journal and the names in them that these import from one another."""
    files = list((PACKAGE / "review").glob("journal*.py"))
    modules = {f"l2l_ray.review.{path.stem}" for path in files}
    return {name for path in files for name in _imports(path) if name.startswith(tuple(modules))}


STAGES = ("state", "inference", "training", "evaluation")


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_of_the_loop_imports_a_later_one(stage: str) -> None:
    later = tuple(f"l2l_ray.loop.{name}" for name in STAGES[STAGES.index(stage) + 1 :])
    for path in _files(f"loop/{stage}"):
        assert not [name for name in _imports(path) if later and name.startswith(later)], path


def test_every_part_of_the_package_has_a_rule() -> None:
    parts = {p.stem if p.is_file() else p.name for p in PACKAGE.iterdir() if p.suffix == ".py" or list(p.glob("*.py"))}
    assert parts - {"__init__"} == {*FOUNDATION, *MAY_IMPORT}


@pytest.mark.parametrize("part", [*FOUNDATION, *(part for part in MAY_IMPORT if part != "actors")])
def test_only_actors_import_ray(part: str) -> None:
    for path in _files(part):
        assert not _uses_ray(path), path


def _import_graph() -> dict[str, set[str]]:
    """Return the modules of the package that each of them imports: at its top, in a function or for type checkers."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    return {name: _imports(path) & modules.keys() - {name} for name, path in modules.items()}


def _circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import one another, directly or not: each that reaches itself."""
    reached = {name: set(found) for name, found in graph.items()}
    for middle in graph:  # Warshall's transitive closure
        for found in reached.values():
            if middle in found:
                found |= reached[middle]
    groups = {frozenset(b for b in graph if b in reached[a] and a in reached[b]) for a in graph}
    return sorted(sorted(group) for group in groups if group)


def test_a_circle_of_imports_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert _circles(graph) == [["a", "b", "c"], ["d", "e"]]
    assert _circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph = _import_graph()
    assert "l2l_ray.types" in graph["l2l_ray.data.refer"]
    assert "l2l_ray.loop.inference.inputs" in graph["l2l_ray.loop.inference.teacher"], "for type checkers alone"
    assert "l2l_ray.loop.local" in graph["l2l_ray.actors.tuning"], "inside a function"
    assert _circles(graph) == []


def _top_level(path: Path) -> set[str]:
    """Return what importing the file imports."""
    body = ast.parse(path.read_text()).body
    nodes = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)]
    return {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names} | {
        n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)
    }


JOBS = sorted((ROOT / "jobs").glob("*.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "tune_spaces").glob("*.py")), ids=lambda p: p.stem)
def test_spaces_are_read_without_ray(path: Path) -> None:
    assert not _uses_ray(path)
    assert _ours(path) <= {"config", "selector", "sweep"}


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_jobs_import_actors_inside_main_and_never_ray(path: Path) -> None:
    assert not any(name.startswith("l2l_ray.actors") for name in _top_level(path))
    assert not _uses_ray(path)


@pytest.mark.parametrize("path", [p for p in JOBS if p.stem in ("pretrain_embedded", "prepare", "evaluate")], ids=str)
def test_jobs_without_a_cluster_never_touch_the_ray_layer(path: Path) -> None:
    assert "actors" not in _ours(path)


def test_nothing_private_of_ray_is_used() -> None:
    for path in _files("actors"):
        private = [n for n in _imports(path) if n.startswith("ray.") and any(p.startswith("_") for p in n.split("."))]
        assert not private, path
        assert "ray._private" not in path.read_text(), path


def _importers(module: str) -> set[str]:
    return {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if module in _imports(path)}


def test_only_the_preparation_the_evaluation_of_labels_and_l2l_data_open_a_data_set() -> None:
    assert _importers("l2l_ray.data.refer") == {"loop/state/candidates.py", "datatools/commands.py"}
    openers = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if "open_dataset" in path.read_text()}
    assert openers == {
        f"loop/{name}.py" for name in ("state/candidates", "state/enough", "state/prepare", "evaluation/hidden_truth")
    }


def test_hidden_truth_reaches_evaluation_alone() -> None:
    assert _importers("l2l_ray.loop.evaluation.hidden_truth") == {"loop/evaluation/evaluate.py"}
    assert not [
        path for path in PACKAGE.rglob("*.py") if "HiddenTruth" in path.read_text()
    ]  # the reader of benchmarks/compare/oracles.py


def _new_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_cli_starts_without_heavy_imports() -> None:
    loaded = _new_python("import sys, l2l_ray.cli; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert not set(loaded) & set(HEAVY)


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("l2l_ray.cli", "numpy, pandas, ray, torch, transformers"),  # so that --help is there at once
        ("l2l_ray.datatools.commands, l2l_ray.overview.listing, l2l_ray.report.page", "ray, torch, transformers"),
        ("l2l_ray.actors.coordinator", "torch, transformers"),  # more than half of its memory and of its start
        ("l2l_ray.loop.local, l2l_ray.predictor", "ray"),
    ],
)
def test_what_a_part_has_no_use_for_is_not_loaded(modules: str, absent: str) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({absent.split(', ')})); import {modules}; print('fine')"
    assert _new_python(code).strip() == "fine"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_file_opens_with_its_design_note_and_prints_nowhere_else(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    if not (path.stem in ("cli", "run_commands") or "report" in path.parts):
        assert not [call.lineno for call in calls if call.func.id == "print"]  # type: ignore[attr-defined]


TESTS = ROOT / "tests"


def _foreign_names(tree: ast.AST) -> set[str]:
    """Return the names that a test file takes from outside of this project."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in ("l2l_ray", "tests"):
            names.update(alias.asname or alias.name for alias in node.names)
    return names - {"l2l_ray"}


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in ("_replace", "_asdict")  # of NamedTuple


def _private_uses(code: str) -> list[str]:
    """Return where code uses a private name of another module without a `# why: ...` on that line."""
    tree, lines = ast.parse(code), code.splitlines()
    foreign, found = _foreign_names(tree), []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("l2l_ray", "tests"):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            root = ast.unparse(node.value).split(".")[0]
            names = [] if root in foreign | {"self", "cls"} else [node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr") and len(node.args) > 1:
            target, name = node.args[:2]
            if isinstance(target, ast.Constant):
                names = str(target.value).split(".")
            elif isinstance(name, ast.Constant) and ast.unparse(target).split(".")[0] not in foreign:
                names = [str(name.value)]
        says_why = any("# why: " in line for line in lines[node.lineno - 1 : node.end_lineno]) if names else True
        if not says_why and any(map(_is_private, names)):
            found.append(f"{node.lineno}: {lines[node.lineno - 1].strip()}")
    return sorted(set(found))


@pytest.mark.parametrize(
    "use",
    [
        "from l2l_ray.data.refer import _locate",
        "from tests.whole_run import _copy, copied",
        "engine._models",
        "losses._check_shapes(1)",
        "monkeypatch.setattr(losses, '_SMOOTH', 2)",
        "monkeypatch.setattr('l2l_ray.report.plots._bytes', len)",
    ],
)
def test_the_use_of_a_private_name_is_found(use: str) -> None:
    assert _private_uses(use)
    assert not _private_uses(f"{use}  # why: it takes seconds")


@pytest.mark.parametrize(
    "use", ["import os\nos._exit(9)", "item._replace(ref_id=3)", "self._models", "record.__dict__", "_own(3)"]
)
def test_other_names_with_an_underscore_are_fine(use: str) -> None:
    assert not _private_uses(use)


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda p: str(p.relative_to(TESTS)))
def test_no_test_needs_a_private_name_or_it_says_why(path: Path) -> None:
    assert not _private_uses(path.read_text()), "test what the module does, make the seam public, or say `# why: ...`"


def test_no_file_of_weights_can_run_code() -> None:
    """What ruff's rules on pickle do not see."""
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            given = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if ast.unparse(call.func) == "torch.load":
                assert given.get("weights_only") == "True", f"{path}:{call.lineno}: torch.load(..., weights_only=True)"
            assert given.get("allow_pickle", "False") == "False", f"{path}:{call.lineno}: allow_pickle"
            assert given.get("trust_remote_code", "False") == "False", f"{path}:{call.lineno}: trust_remote_code"
            if ast.unparse(call.func).endswith(".from_pretrained"):  # None is what `**options` is called
                assert {"trust_remote_code", None} & given.keys(), f"{path}:{call.lineno}: trust_remote_code=False"
