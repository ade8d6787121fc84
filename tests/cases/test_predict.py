"""`l2l predict` on what people give it: photos of one name, bombs, folders and tables with faults, odd places."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from l2l_ray import cli

CASE = Path(__file__).parent / "15"


@pytest.fixture(scope="module")
def run(run_dir: Path) -> str:
    return str(run_dir)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Give a folder with two photos of one name, the second with two texts, and a third without text."""
    folder = tmp_path / "photos"
    for name, texts in (("a", "the red circle\n"), ("b", "star\nthe left star\n")):
        shutil.copytree(CASE / name, folder / name)
        (folder / name / "img.txt").write_text(texts)
    shutil.copy(CASE / "a" / "img.png", folder / "lonely.png")
    return folder


def _index(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_photos_of_one_name_are_two_results(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for name in ("a", "b", "b"):
        assert cli.main(["predict", str(CASE / name / "img.png"), "circle", "--run", run, "--out", str(out)]) == 0
    assert len(list(out.glob("*-mask.png"))) == len(_index(out)) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all('img.png "circle": confidence 0.' in line and line.endswith("-mask.png") for line in lines)


def test_a_bomb_is_one_line(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", str(CASE / "bomb.png"), "circle", "--run", run, "--out", str(tmp_path / "out")]
    assert cli.main(words) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert "bomb.png" in line


def test_a_file_as_out_is_one_line_before_any_model_is_loaded(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notafolder"
    file.write_text("")
    assert cli.main(["predict", str(CASE / "a" / "img.png"), "circle", "--run", run, "--out", str(file)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"l2l predict: cannot write {file}: ") and error.count("\n") == 1


def test_a_folder_goes_on_where_it_was_and_names_what_failed(
    run: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["predict", str(photos), "--run", run, "--out", str(out)]
    assert cli.main(words) == 1
    said = capsys.readouterr()
    assert said.out.count("confidence") == 3 and "3 of 4 answered; index: " in said.out
    assert [line for line in said.err.splitlines() if "lonely.png: missing text" in line]
    assert {row["expression"] for row in _index(out)} == {"the red circle", "star", "the left star"}
    with (out / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        assert all((out / row["mask"]).exists() for row in csv.DictReader(file))

    (photos / "lonely.txt").write_text("anything")
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert said.out.count("confidence") == 1 and "3 of 4 are answered already" in said.out
    assert len(_index(out)) == 4


def test_the_files_do_not_depend_on_how_the_photos_were_named(
    run: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = photos / "rows.jsonl"
    table.write_text(json.dumps({"image": min(photos.glob("*.png")).name, "expression": "star"}) + "\n")
    monkeypatch.chdir(photos.parent)
    named = {
        "whole": (str(photos), str(table), str(photos)),
        "relative": (photos.name, str(Path(photos.name, table.name)), photos.name),
    }
    found = []
    for name, (folder, rows, images) in named.items():
        out = tmp_path / name
        cli.main(["predict", folder, "star", "--run", run, "--out", str(out)])
        assert cli.main(["predict", rows, "--images", images, "--run", run, "--out", str(out), "--again"]) == 0
        found.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert found[0] == found[1]


def test_a_table_whose_rows_are_partly_bad_gives_the_others(
    run: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = photos / "texts.csv"
    table.write_text('image,expression\na/img.png,"the circle, red"\ngone.png,star\n../a.png,star\nb/img.png,\n')
    shutil.copy(CASE / "bomb.png", photos / "bomb.png")
    with table.open("a") as file:
        file.write("bomb.png,star\n")
    out = tmp_path / "out"
    assert cli.main(["predict", str(table), "--run", run, "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert '"the circle, red": confidence' in said.out and "1 of 5 answered" in said.out
    lines = [line for line in said.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 4
    assert all(any(word in line for line in lines) for word in ("gone.png", "../a.png", "line 5", "bomb.png"))
    assert [row["error"] for row in _index(out) if "bomb.png" in row["image"]]


def test_a_second_call_about_the_same_loads_no_model(
    run: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    words = ["predict", str(photos), "circle", "--run", str(own), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    for weights in own.glob("train/*/teacher.safetensors"):
        weights.write_bytes(b"damaged")
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "3 of 3 are answered already" in said and "3 of 3 answered" in said
    assert cli.main([*words, "--again"]) == 1
