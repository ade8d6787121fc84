"""`l2l label`: one command from photos to masks, which goes on where it was, and a dry run that keeps nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from l2l_ray import cli
from l2l_ray.data.layout import PROBLEMS_FILE
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.jsonl import read_lines
from l2l_ray.label import Source, config_of

NUM_PHOTOS, NUM_MASKS = 8, 4
QUICK = (
    *("--preset", "smoke", "--loop.rounds", "1", "--loop.burn_in_steps", "2", "--loop.fold_steps", "1"),
    *("--loop.round_steps", "1", "--selector.warmup_updates", "1", "--selector.round_updates", "1"),
    *("--loop.labeled_batch", "2", "--loop.unlabeled_batch", "2"),
    *("--selector.update_batch", "2", "--selector.max_unlabeled", "2", "--selector.group_size", "2"),
)


def _mask(number: int) -> Image.Image:
    mask = Image.new("L", (64, 48))
    ImageDraw.Draw(mask).ellipse((4 + 4 * number, 8, 24 + 4 * number, 28), fill=255)
    return mask


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Give a folder of photos of a red circle, of which the first four have masks."""
    folder = tmp_path / "My photos"
    folder.mkdir()
    for number in range(NUM_PHOTOS):
        photo = Image.new("RGB", (64, 48), (230, 230, 225))
        photo.paste((200, 30, 30), mask=_mask(number))
        photo.save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text("the red circle\n")
        if number < NUM_MASKS:
            _mask(number).save(folder / f"p{number}_mask.png")
    return folder


def _home(tmp_path: Path) -> list[str]:
    home = tmp_path / "home"
    return sorted(path.name for path in home.iterdir() if path.name != "cache") if home.exists() else []


@pytest.mark.usefixtures("one_thread")
def test_from_photos_to_masks_and_on_when_a_mask_is_added(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for ending in (".png", ".txt"):  # a name with what `str.splitlines` takes for the end of a line
        (photos / f"p6{ending}").rename(photos / f"p6\u2028{ending}")
    words = ["label", str(photos), *QUICK]
    assert cli.main(words) == 0
    first = capsys.readouterr().out
    assert "My-photos (own): 4 labeled (3 to learn from, 1 held out), 4 unlabeled; 0 left out" in first
    masks = tmp_path / "home" / "My-photos" / "masks"
    rows = [json.loads(line) for line in read_lines(masks / "index.jsonl")]
    assert sorted(row["image"] for row in rows) == ["p4.png", "p5.png", "p6\u2028.png", "p7.png"]
    for row in rows:
        with Image.open(masks / row["mask"]) as mask:
            assert mask.size == (64, 48) and set(np.unique(np.asarray(mask))) <= {0, 255}
    doubtful, total, sure = map(
        int, re.findall(r"confidence (\d+) of (\d+) masks .* doubtful .*, (\d+) sure", first)[0]
    )
    assert total == len(rows) and sure == sum(row["confidence"] >= 0.7 for row in rows)
    assert doubtful == sum(row["confidence"] < 0.4 for row in rows)

    assert cli.main(words) == 0
    again = capsys.readouterr().out
    assert "made of" in again and "nothing to do" in again and _home(tmp_path) == ["My-photos", "data"]
    assert f"masks      {masks}: written by this version before; --force writes them again" in again
    assert cli.main([*words, "--dry-run"]) == 0
    assert "nothing would be done" in capsys.readouterr().out and _home(tmp_path) == ["My-photos", "data"]

    index = masks / "export.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"weights_sha256": "of a run of this name that was deleted"}))
    assert cli.main(words) == 0
    assert "written by this version before" not in capsys.readouterr().out
    assert json.loads(index.read_text()) == content

    edited = masks / rows[0]["mask"]
    _mask(7).save(edited)
    before = edited.read_bytes()
    assert cli.main(words) == 0
    assert "written by this version before, and changed since, which stays" in capsys.readouterr().out
    assert edited.read_bytes() == before

    _mask(5).save(photos / "p5_mask.png")
    (photos / "p7.txt").write_text("the red disc\n")
    assert cli.main([*words, "--out", str(masks)]) == 1
    refused = capsys.readouterr()
    assert f"{masks} holds files that differ from what was written there" in refused.err
    assert "5 labeled" not in refused.out and edited.read_bytes() == before, "refused before the run"
    assert cli.main([*words, "--dry-run"]) == 0
    dry = capsys.readouterr().out
    assert (
        "5 labeled (4 to learn from, 1 held out)" in dry and f"would write {tmp_path / 'home' / 'My-photos-2'}" in dry
    )
    assert cli.main(words) == 0
    after = capsys.readouterr().out
    assert "another run, My-photos-2: the data have changed since" in after
    assert "p7.png, 'the red disc': in place of 'the red circle', as the folder says now" in after
    assert "5 labeled (4 to learn from, 1 held out), 3 unlabeled; 0 left out" in after, after
    assert _home(tmp_path) == ["My-photos", "My-photos-2", "data"]


@pytest.mark.usefixtures("one_thread")
def test_a_dry_run_says_what_and_how_long_and_keeps_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "none.jpg").write_text("no photo")
    (photos / "none.txt").write_text("left star")
    assert cli.main(["label", str(photos), *QUICK, "--dry-run"]) == 1, "a photo is unreadable"
    printed = capsys.readouterr()
    said = printed.out
    assert "none.jpg" in said + printed.err and "import-problems.txt" not in said and "l2l-dry-" not in said
    assert "4 labeled (3 to learn from, 1 held out), 4 unlabeled; 0 left out" in said
    assert re.search(r"would take about (\d+m)?\d+s on this machine", said)
    assert f"would write {tmp_path / 'home' / 'My-photos'}; nothing was kept" in said
    assert f"would write {tmp_path / 'home' / 'data' / 'My-photos'}: 8 images" in said and "wrote" not in said
    assert _home(tmp_path) == []


def test_a_mask_that_was_deleted_is_named_each_time(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = photos.rename(tmp_path / "val").parent / "shelf"  # no train split: no run is needed here
    (source.mkdir(), (tmp_path / "val").rename(source / "val"))
    assert cli.main(["label", str(source), *QUICK]) == 1
    (source / "val" / "p3_mask.png").unlink()
    (source / "val" / "p2.txt").unlink()
    capsys.readouterr()
    for more in (["--dry-run"], [], []):
        assert cli.main(["label", str(source), *QUICK, *more]) == 1
        said = capsys.readouterr().out
        assert f"1 mask is no longer in {source} and stays truth, of val/p3.png ('the red circle')" in said
        assert f"1 text is no longer in {source} and stays in the data set, such as 'the red circle' of val/p2" in said
        assert f"remove {tmp_path / 'home' / 'data' / 'shelf'} and give the same command" in said


@pytest.mark.parametrize("is_first", [True, False])
def test_what_another_table_gave_is_not_missed(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_first: bool
) -> None:
    own, more = tmp_path / "own.csv", tmp_path / "more.csv"
    own.write_text("image,expression,id,mask,split\np0.png,the red circle,1,p0_mask.png,val\np1.png,a disc,2,,val\n")
    more.write_text("image,expression,id,mask,split\np2.png,a ball,3,p2_mask.png,val\n")
    merge = ["data", "import", "rows", str(more), "--root", str(tmp_path / "home" / "data"), "--dataset", "own"]
    words = ["label", str(own), "--images", str(photos), *QUICK]
    if is_first:  # and what `label` then merges into it came later
        assert cli.main(words) == 1
    assert cli.main([*merge, "--images", str(photos), *(["--update"] if is_first else [])]) == 0
    if not is_first:
        assert cli.main(words) == 1
    own.write_text(own.read_text() + "p3.png,a dot,4,,val\n")
    capsys.readouterr()
    assert cli.main(words) == 1
    assert "no longer in" not in capsys.readouterr().out
    own.write_text(own.read_text().replace("p1.png,a disc,2,,val\n", "").replace("p0_mask.png", ""))
    for _ in range(2):
        assert cli.main(words) == 1
        said = capsys.readouterr().out
        assert f"1 text is no longer in {own} and stays in the data set, such as 'a disc' of p1.png" in said
        assert f"1 mask is no longer in {own} and stays truth, of p0.png ('the red circle')" in said
        assert "what came from other sources has to be merged again" in said
        own.write_text(own.read_text() + "p4.png,a spot,5,,val\n")


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_without_masks_the_error_says_a_way_that_holds(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    for number in range(NUM_MASKS):
        (photos / f"p{number}_mask.png").unlink()
    assert cli.main(["label", str(photos), *QUICK, *more]) == 1
    said = capsys.readouterr().err
    assert "No train photo has a mask; add masks of two at least, then give the same command again" in said


@pytest.mark.usefixtures("one_thread")
def test_an_error_of_a_dry_run_names_the_folder_that_is_meant(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["label", str(photos), *QUICK]
    table = tmp_path / "own.csv"
    table.write_text("image,expression,split\np1.png,the red circle,val\n")
    cli.main(["label", str(table), "--images", str(photos), *QUICK])
    folder = tmp_path / "home" / "data" / "own"
    table.write_text("image,expression,split\np2.png,the red circle,val\n")
    (folder / "refs(own).p").write_bytes(b"no pickle")
    capsys.readouterr()
    assert cli.main([*words[:1], str(table), "--images", str(photos), *QUICK, "--dry-run"]) == 1
    said = capsys.readouterr().err
    assert str(folder) in said and "l2l-dry-" not in said


def test_two_sources_of_one_name_do_not_become_one(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from l2l_ray.label import dry_run

    config = config_of(Source.of(photos, None), None, None, QUICK)
    note = tmp_path / "home" / "data" / "My-photos.source.json"
    (tmp_path / "home" / "data" / "My-photos").mkdir(parents=True)
    note.write_text(json.dumps({"source": "/elsewhere/My photos"}))
    with pytest.raises(ConfigError, match=r"was made of /elsewhere/My photos, got .*; choose another --name"):
        dry_run(Source.of(photos, None), config, print)
    assert cli.main(["label", str(photos), *QUICK]) == 1
    assert "choose another --name" in capsys.readouterr().err


def test_places_inside_the_source_are_refused(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["label", str(photos), *QUICK, "--out", str(photos / "masks")]) == 1
    assert "--out must lie outside of the photos, got" in capsys.readouterr().err
    assert cli.main(["label", str(photos), *QUICK, "--run_root", str(photos / "runs")]) == 1
    assert "lies in" in capsys.readouterr().err and not (photos / "runs").exists()


@pytest.mark.usefixtures("one_thread")
def test_what_is_wrong_with_the_photos_is_said_each_time(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "alone.txt").write_text("a cup\n")
    said = []
    for _ in range(2):
        assert cli.main(["label", str(photos), *QUICK]) == 1
        said.append(capsys.readouterr().out)
        assert "alone.txt: missing image: got no picture beside it" in said[-1]
    assert "made of" in said[1] and "nothing to do" in said[1] and "wrote " not in said[1]


def test_the_value_of_a_field_is_never_the_source(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos.parent)
    Path("smoke").mkdir()
    for words in (
        ["--preset", "smoke", "nowhere"],
        ["nowhere", "--preset", "smoke"],
        ["--data.root", "smoke", "nowhere"],
    ):
        assert cli.main(["label", *words]) == 1
        assert "nowhere not found" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--data.root", "--data.dataset", "--data.split_by"])
def test_what_it_sets_itself_is_refused(photos: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["label", str(photos), *QUICK, "--dry-run", option, "x"]) == 1
    assert f"{option} is what `l2l label` makes of the photos; leave it out" in capsys.readouterr().err


def test_a_folder_of_photos_has_no_other_folder_of_photos(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--images is the folder of a table's photos; .* leave it out"):
        Source.of(photos, tmp_path)


def test_an_empty_name_is_no_name(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["label", str(photos), "--name", "", "--dry-run"]) == 1
    assert "--name" in capsys.readouterr().err


def test_what_is_no_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.docx").write_bytes(b"")
    with pytest.raises(DataError, match=r"the ending must be one of \.jsonl, .*, got '\.docx'; give a folder"):
        Source.of(tmp_path / "notes.docx", None)
    with pytest.raises(DataError, match="nowhere not found; give a folder of photos"):
        Source.of(tmp_path / "nowhere", None)


@pytest.mark.parametrize(("content", "kind"), [("[]", "labelstudio"), ("\ufeff {}", "coco")])
def test_a_json_file_is_of_label_studio_or_coco(tmp_path: Path, content: str, kind: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert Source.of(tmp_path / "a.json", None).kind == kind


def test_a_source_is_told_from_itself_changed(photos: Path) -> None:
    before = Source.of(photos, None).digest()
    assert Source.of(photos, None).digest() == before
    (photos / "p7.txt").write_text("the red disc\n")
    assert Source.of(photos, None).digest() != before


def test_a_mask_drawn_again_and_a_photo_added_beside_a_table_are_taken_in(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "own.csv"
    masks = [f"p{number}_mask.png" if number < NUM_MASKS else "" for number in range(NUM_PHOTOS + 1)]
    rows = [f"p{number}.png,the red circle,{mask},val\n" for number, mask in enumerate(masks)]
    table.write_text("image,expression,mask,split\n" + "".join(rows))
    words = ["label", str(table), "--images", str(photos), *QUICK]
    kept = tmp_path / "home" / "data" / "own" / PROBLEMS_FILE
    for first in ("wrote ", "made of"):
        assert cli.main(words) == 1
        said = capsys.readouterr()
        assert first in said.out and "line 10: missing image: got 'p8.png'" in said.out
        assert "has no train split" in said.err, "no run is needed here"
        assert "line 10: missing image" in kept.read_text()

    _mask(6).save(photos / "p0_mask.png")
    Image.new("RGB", (64, 48), (9, 9, 9)).save(photos / "p8.png")
    assert cli.main(words) == 1
    said = capsys.readouterr()
    assert "1 corrected, 1 new object, 1 new photo, 7 unchanged" in said.out and "p8.png" not in said.out
    assert not kept.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.jsonl", {"image": "p7.png", "expression": "a disc"}),
        ("coco.json", {"images": [{"id": 1, "file_name": "p7.png"}], "annotations": [], "categories": []}),
        ("tasks.json", [{"id": 1, "data": {"image": "/data/local-files/?d=p7.png"}, "annotations": [{"result": []}]}]),
    ],
)
def test_what_a_table_names_is_part_of_it(photos: Path, tmp_path: Path, name: str, content: object) -> None:
    (table := tmp_path / name).write_text(json.dumps(content))
    before = Source.of(table, photos).digest()
    (photos / "p6.png").unlink()
    assert Source.of(table, photos).digest() == before, "it does not name this one"
    assert Source.of(table, tmp_path).digest() != before, "another folder of photos"
    (photos / "p7.png").unlink()
    assert Source.of(table, photos).digest() != before


def test_a_folder_of_the_name_of_all_pictures(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(Source.of(photos.rename(photos.with_name("data")), None), None, None, QUICK)
    assert config.name == "photos", "data sets lie in a folder of this name"
    folder = photos.with_name("data").rename(photos.with_name("images"))
    config = config_of(Source.of(folder, None), None, None, QUICK)
    assert (config.data.dataset, config.name) == ("photos", "photos")
    assert cli.main(["label", str(folder), "--name", "images", *QUICK]) == 1
    assert "the name 'images' is that of the folder of all pictures; choose another" in capsys.readouterr().err
