"""Figures by seed: what is there is not measured again, and figures of other options are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.seed_file import SeedFile, changed_settings
from l2l_ray.errors import ConfigError, DataError

MEASURED: list[int] = []


def measure(seed: int) -> dict[str, int]:
    MEASURED.append(seed)
    return {"value": 10 * seed}


def total(by_seed: dict[str, dict[str, int]]) -> dict[str, int]:
    return {"total": sum(found["value"] for found in by_seed.values())}


@pytest.fixture(autouse=True)
def _nothing_measured() -> None:
    MEASURED.clear()


def test_only_missing_seeds_are_measured_and_the_file_is_there_after_each(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for seed, _ in SeedFile(path, {"count": 5}).complete([1, 2], measure, total):
        assert list(json.loads(path.read_text())["by_seed"])[-1] == str(seed)
    file = SeedFile(path, {"count": 5})
    assert list(file.complete([2, 3], measure, total)) == [(2, {"value": 20}), (3, {"value": 30})]
    assert MEASURED == [1, 2, 3] and file.rows() == {"total": 60}
    assert json.loads(path.read_text())["options"] == {"count": 5}


def test_parts_of_a_file_stand_side_by_side(tmp_path: Path) -> None:
    file = SeedFile(tmp_path / "x.json", {})
    for frac in ("0.01", "0.05"):
        list(file.complete([1], measure, total, ("by_frac", frac)))
    assert MEASURED == [1, 1] and file.rows(("by_frac", "0.05")) == {"total": 10}


def test_what_another_process_wrote_meanwhile_stays(tmp_path: Path) -> None:
    def slow(seed: int) -> dict[str, int]:
        list(SeedFile(tmp_path / "x.json", {}).complete([7], measure, total))
        return measure(seed)

    file = SeedFile(tmp_path / "x.json", {})
    list(file.complete([1], slow, total))
    assert MEASURED == [7, 1] and file.rows() == {"total": 80}


def test_figures_of_other_options_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    list(SeedFile(path, {"count": 5}).complete([1], measure, total))
    with pytest.raises(ConfigError, match=r'options {"count": 5}, and this command has {"count": 6}: give another --o'):
        SeedFile(path, {"count": 6})
    path.write_text('{"count": 5, "by_seed": {}}')
    with pytest.raises(
        ConfigError, match=r'does not name.*if you know that it was made so, add "options": {"count": 5}'
    ):
        SeedFile(path, {"count": 5})


def test_a_file_of_another_form_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"options": {}, "by_seed": [1]}')
    with pytest.raises(
        DataError, match="x.json is no file of figures by seed: expected an object 'by_seed'; give anot"
    ):
        list(SeedFile(path, {}).complete([1], measure, total))
    assert MEASURED == []


def test_settings_are_told_however_they_are_said_and_places_are_not() -> None:
    words = ["--preset", "5pct"]
    assert changed_settings(words, []) == changed_settings(words, ["--run_root", "/elsewhere", "--name", "x"]) == {}
    assert changed_settings(words, ["--loop.rounds", "9"]) == {"loop.rounds": 9}
    assert changed_settings(words, ["--loop.rounds=9"]) == {"loop.rounds": 9}
