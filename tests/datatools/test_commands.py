"""`l2l data` from the command line to files and back, with the real parts."""

import json
import os
import tarfile
from pathlib import Path

import pytest

from l2l_ray import cli
from l2l_ray.config import load_config
from l2l_ray.data.refer import ReferDataset
from l2l_ray.data.split_files import read_split
from tests.refer_folder import draw, write_tiny

REAL = os.environ.get("L2L_REAL_DATA")


def test_help_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "--help"]) == 0
    assert "l2l data leaks" in capsys.readouterr().out
    assert cli.main(["data"]) == 2
    assert cli.main(["data", "nonsense"]) == 2
    with pytest.raises(SystemExit, match="2"):
        cli.main(["data", "split", "x", "y"])


def test_own_data_from_rows_to_a_split_that_a_run_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for number in range(6):
        draw(tmp_path / "photos" / f"{number}.png", number)
        rows.append({"image": f"{number}.png", "expression": f"cat {number}", "polygon": [2, 2, 20, 2, 2, 14]})
    rows[5] |= {"split": "val"}
    del rows[4]["polygon"]
    rows.append({"image": "gone.png", "expression": "nothing"})
    table = tmp_path / "own.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    words = [
        "data",
        "import",
        "rows",
        str(table),
        "--images",
        str(tmp_path / "photos"),
        "--root",
        str(tmp_path / "root"),
    ]
    assert cli.main([*words, "--dataset", "strict", "--strict"]) == 1
    assert not (tmp_path / "root" / "strict").exists()
    assert cli.main([*words, "--dataset", "own"]) == 1
    printed = capsys.readouterr().out
    assert "own.jsonl line 7: missing image: got 'gone.png'; expected a file below" in printed
    assert "1 problem: 1 missing image" in printed
    assert "6 images, 6 refs (5 with truth), 6 sentences" in printed
    assert f"use it: --data.root {tmp_path / 'root'} --data.dataset own --data.split_by own" in printed

    folder = str(tmp_path / "root" / "own")
    assert cli.main(["data", "check", folder]) == 0
    assert "notice: pictures: their heads were looked at; --decode reads each to its end" in capsys.readouterr().out
    assert cli.main(["data", "check", folder, "--decode"]) == 0
    assert cli.main(["data", "stats", folder, "--sheet", str(tmp_path / "sheet.html"), "--split", "train"]) == 0
    assert (tmp_path / "sheet.html").stat().st_size > 1000
    assert cli.main(["data", "stats", folder, "--sheet", str(tmp_path / "sheet.html")]) == 1
    assert "sheet.html is there already; choose another --sheet" in capsys.readouterr().err
    out = tmp_path / "split.txt"
    assert cli.main(["data", "split", folder, str(out), "--fraction", "0.4", "--procedure", "stratified"]) == 0
    printed = capsys.readouterr().out
    assert "2 of 5 train images are labeled" in printed
    words = printed.partition("use it: ")[2].split()
    config = load_config(words)
    assert config.data.split_file == str(out) and config.data.labeled_frac is None
    data = ReferDataset.open(tmp_path / "root", "own", "own")
    labeled, unlabeled = read_split(out, data.digest, data.image_ids("train"))
    assert len(labeled) == 2 and 5 in unlabeled  # the fifth image has no truth
    before = out.read_text()
    assert cli.main(["data", "split", folder, str(out), "--fraction", "0.4", "--seed", "1"]) == 1
    assert "split.txt is there already; choose another file" in capsys.readouterr().err and out.read_text() == before
    out.unlink()
    assert cli.main(["data", "split", folder, str(out), "--count", "5"]) == 1
    assert "5 of 5 train images are to be labeled, that is 5, but only 4 have a mask" in capsys.readouterr().err
    assert cli.main(["data", "split", folder, str(out), "--all"]) == 0


@pytest.mark.parametrize(
    ("kind", "option", "kinds"),
    [
        ("rows", "--split", "coco"),
        ("rows", "--captions", "coco"),
        ("coco", "--instances", "grefcoco"),
        ("review", "--masks", "rows, folder"),
        ("lmms-lab", "--images", "rows, folder, coco, grefcoco, jxu124, labelstudio, review"),
    ],
)
def test_an_option_that_a_kind_has_no_use_for_is_refused(
    kind: str, option: str, kinds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "import", kind, "x", "--root", str(tmp_path / "root"), "--dataset", "own", option, "val"]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert f"{option} has no effect on kind {kind}, only on {kinds}; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("split F out.txt --fraction 0.5 --strata refs", "--strata has no effect on --procedure keyed, only"),
        ("split F out.txt --all --seed 1", "--seed has no effect with --all; leave it out"),
        ("split F out.txt --all --procedure semires", "--procedure has no effect with --all; leave it out"),
        ("leaks --train F --test F --ids-only --bits 3", "--bits has no effect with --ids-only; leave it out"),
        ("leaks --train F --test F --bits -5", "--bits must be from 0 to 128, got -5"),
        ("leaks --train F --test F --bits 129", "--bits must be from 0 to 128, got 129"),
        ("stats F --split train", "--split has no effect without --sheet; leave it out"),
        ("stats F --seed 0", "--seed has no effect without --sheet; leave it out"),
        ("stats F --num 3", "--num has no effect without --sheet; leave it out"),
        ("stats F --sheet out.png --num -2", "--num must be at least 1, got -2"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_tiny(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", *words.replace("F", str(folder)).split()])
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.glob("out.*"))


def test_a_folder_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "photos" / "a.jpg", 1)
    (tmp_path / "photos" / "a.txt").write_text("left cat")
    words = ["data", "import", "folder", str(tmp_path / "photos"), "--root", str(tmp_path / "root"), "--dataset", "own"]
    assert cli.main([*words, "--copy"]) == 0
    assert "own: 1 image, 1 ref (0 with truth), 1 sentence\n" in capsys.readouterr().out
    assert ReferDataset.open(tmp_path / "root", "own", "own").splits == ("train",)


def test_leaks_and_the_set_without_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "COCO_train2014_00000000000{}.jpg"
    first = write_tiny(tmp_path, "first", names)
    second = write_tiny(tmp_path, "second", names, splits={2: "testA", 9: "testA"})
    assert cli.main(["data", "leaks", "--train", str(first), "--test", str(second), "--drop", "clean"]) == 1
    printed = capsys.readouterr().out
    assert "second@own:testA image 2 is train image 2 (by number)" in printed
    assert "first@own:train contains 1 of the 2 images of second@own:testA" in printed
    assert cli.main(["data", "leaks", "--train", str(tmp_path / "clean"), "--test", str(second)]) == 0
    assert cli.main(["data", "leaks", "--train", f"{first}:val", "--test", str(second), "--ids-only"]) == 0


def test_problems_give_status_one_and_mistakes_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny(tmp_path, segmentation=[])
    assert cli.main(["data", "check", str(folder)]) == 1
    assert "5 problems: 5 missing mask" in capsys.readouterr().out
    assert cli.main(["data", "check", str(tmp_path / "nowhere")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("l2l data: ") and error.count("\n") == 1
    words = ["data", "import", "coco", "a.json", "b.json", "--root", str(tmp_path), "--dataset", "x"]
    assert cli.main(words) == 1
    assert "kind coco takes one source, got 2" in capsys.readouterr().err


@pytest.mark.skipif(REAL is None, reason="L2L_REAL_DATA is not set")
def test_boxes_without_masks_sizes_and_pictures_are_named_not_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(Path(str(REAL)) / "refcoco_boxes_only.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    assert cli.main(["data", "check", str(tmp_path / "refcoco")]) == 1
    printed = capsys.readouterr().out
    assert "8029 missing mask" in printed
    assert "3170 missing image" in printed
    assert cli.main(["data", "stats", str(tmp_path / "refcoco")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5].split()[:4] == ["all", "3170", "8029", "22811"]
