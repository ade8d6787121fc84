"""The page of results: its own words stay, tables and pictures come from compare.json alone."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from benchmarks.compare.rows import Task
from benchmarks.compare.runner import Comparison
from benchmarks.compare.summary import write_summary
from tests.benchmarks.compare.records_by_hand import save


@pytest.fixture(scope="module")
def results_page() -> ModuleType:
    """Give the script."""
    path = Path(__file__).parent.parent / "docs" / "results_page.py"
    spec = importlib.util.spec_from_file_location("results_page", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a summary of three rows and two seeds, and of a row that has one of them so far."""
    comparison = Comparison([], tmp_path / "compare", None)
    save(comparison, Task("refshapes+", "0.5pct", 10, "confidence_gate"), (1.0, 0.5), labeled_frac=0.005)
    save(comparison, Task("refshapes+", "1pct", 10, "l2l"), (1.2, 0.6), labeled_frac=0.01)
    for row in ("l2l", "accept_all", "l2l_cells"):
        for seed in (10, 11):
            save(comparison, Task("refshapes+", "0.5pct", seed, row), (1.0, 0.5), labeled_frac=0.005, processor="")
    write_summary(tmp_path)
    return tmp_path / "compare.json"


def test_only_what_lies_between_the_marks_is_made_anew(results_page: ModuleType, source: Path) -> None:
    text = f"My words.\n\n{results_page.BEGIN}\n\noutdated\n\n{results_page.END}\n\nMore words.\n"
    made = results_page.page(text, source)
    assert made.startswith("My words.\n") and made.endswith("\n\nMore words.\n") and "outdated" not in made
    assert "## refshapes+, 0.5% labeled (0.5pct), 2 seeds" in made
    assert "Parts left out or added, one at a time:\n\n|" in made and "| L2L, pixel decisions on |" in made
    assert "\n\nMade by commit " in made and "Records of seeds 10 and 11 do not name their kind of processor" in made
    assert results_page.page(made, source) == made
    assert results_page.NOT_YET in results_page.page(made, source.with_name("none.json"))


def test_every_picture_that_is_linked_is_drawn_alike_every_time(results_page: ModuleType, source: Path) -> None:
    summary = json.loads(source.read_text())
    drawn = results_page.pictures(summary)
    assert all(f"]({name})" in results_page.measured(summary) for name in drawn)
    both = {f"results-refshapesplus-0_5pct-{what}.svg" for what in ("labels", "curves")}
    assert set(drawn) == {"results-shares.svg", *both}, "one row alone is no picture"
    assert results_page.pictures(summary) == drawn
    for svg in drawn.values():
        texts = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
        assert "L2L (RPLE)" in texts and len(svg) < 100_000
        assert "confidence gate" not in texts, "it lacks a seed"


def test_where_each_row_is_right_is_shown_group_by_group(results_page: ModuleType) -> None:
    ious = {"accept_all": 0.151, "l2l": 0.162, "sample_oracle": 0.2}
    gain = {"mean": 0.011, "low": -0.02, "high": 0.04}
    shares = {"right": 0.157, "used": 0.125, "right_of_used": None, "wrong_object_of_used": None}
    rows = dict.fromkeys(("accept_all", "confidence_gate", "scorer", "l2l"), shares)
    found = {
        "dataset": "refshapes", "schedule": "1pct", "seeds": [11, 12],
        "students": {"kind": {"order": {"num": 1091, "mean_iou": ious, "l2l_minus_accept_all": gain}}},
        "labels": {"kind": {"order": {"num": 318, "rows": rows}}},
    }  # fmt: skip
    made = results_page.where_part(found)
    assert "\n| order | 1,091 | 15.1 | 16.2 | 20.0 | +1.1 (-2.0 to +4.0) |" in made
    assert "\n| order | 318 | 15.7 | 12.5 |  | 12.5 |  | 12.5 |  |" in made
    assert "2 seeds" in made and "seed 11, drawn at random" in made
    assert "](results-labels.jpg)" in made and (Path(results_page.__file__).parent / "results-labels.jpg").exists()
