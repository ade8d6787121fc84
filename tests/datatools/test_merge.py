"""Corrections, masks, texts and photos come into a data set that is there; its ids stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2l_ray import cli
from l2l_ray.config import load_config
from l2l_ray.data.masks import encode
from l2l_ray.data.refer import ReferDataset
from l2l_ray.data.split_files import read_split
from l2l_ray.datatools.check import check
from l2l_ray.datatools.export import write_export
from l2l_ray.datatools.inventory import take_inventory
from l2l_ray.datatools.record import ExportedMask
from l2l_ray.errors import DataError
from l2l_ray.types import Example
from tests.own_data import LEFT, RIGHT, Import, own_masks, own_refs, polygon_rle
from tests.refer_folder import draw

ABOUT: dict[str, Any] = {"source": "pseudo_label", "run": "r", "dataset": "own"}


def _exported(root: Path, out: Path, kind: str, **changed: Any) -> tuple[Path, Path]:
    """Write what a run would export for every item; return the folder and its image root."""
    dataset = ReferDataset.open(root, "own", "own")
    examples = [example for split in dataset.splits for example in dataset.examples(split)[0]]
    masks = [ExportedMask(e, polygon_rle(RIGHT), None, 0.5, None, ABOUT) for e in examples]
    folder = write_export(masks, kind, out, {})
    return folder, Path(json.loads((folder / "export.json").read_text())["image_root"])


def test_masks_texts_and_photos_are_added_and_ids_stay(own: Import, tmp_path: Path) -> None:
    before = own_refs(tmp_path / "root")
    draw(tmp_path / "photos" / "d.png", 9)
    status, printed = own(
        [
            {"image": "a.png", "expression": "left cat", "polygon": RIGHT},
            {"image": "c.png", "expression": ["bird", "small bird"], "polygon": LEFT},
            {"image": "d.png", "expression": "fish", "polygon": LEFT},
            {"image": "d.png", "expression": "stone"},
            {"image": "a.png", "expression": "mouse", "no_target": True},
        ],
        "--update",
    )
    assert status == 0, printed
    counts = "1 corrected, 3 new masks, 3 new objects, 1 new text, 1 new photo, 1 unchanged"
    assert f"updated {tmp_path / 'root' / 'own'}: {counts}\n" in printed
    after = own_refs(tmp_path / "root")
    assert [(r["ref_id"], r["image_id"], r["split"]) for r in after[:3]] == [
        (r["ref_id"], r["image_id"], r["split"]) for r in before
    ]
    for old, new in zip(before, after, strict=False):
        assert new["sentences"][: len(old["sentences"])] == old["sentences"]
    assert after[1] == before[1], "nothing was said of it"
    assert after[0]["provenance"] == {"replaced": {"ann_id": before[0]["ann_id"]}}
    assert [r["ref_id"] for r in after] == [1, 2, 3, 4, 5, 6] and after[3]["image_id"] == after[4]["image_id"] == 4
    found = own_masks(tmp_path / "root")
    assert found["left cat"] == found["the cat"] == polygon_rle(RIGHT)
    assert found["bird"] == found["small bird"] == found["fish"] == polygon_rle(LEFT)
    assert "stone" not in found and found["mouse"]["counts"] == encode(np.zeros((24, 32), bool))["counts"]
    problems = check(take_inventory(tmp_path / "root" / "own"), decode=True)
    assert [(problem.what, problem.where) for problem in problems] == [("missing mask", "refs(own).p ref_id 2")]


def test_a_new_object_is_in_the_split_of_its_photo(own: Import, tmp_path: Path) -> None:
    status, printed = own([{"image": "b.png", "expression": "ball", "polygon": LEFT}], "--update")
    assert status == 0 and "notice: b.png, 'ball': its photo is in split val, and so is it; this says train" in printed
    assert own_masks(tmp_path / "root", "val") == {"ball": polygon_rle(LEFT)}


def test_the_same_again_changes_nothing(own: Import, tmp_path: Path) -> None:
    rows = [{"image": "c.png", "expression": "bird", "polygon": LEFT}]
    assert "0 corrected, 1 new mask, 2 unchanged" in own(rows, "--update")[1]
    tables = tmp_path / "root" / "own" / "instances.json"
    before = tables.stat().st_ino, tables.stat().st_mtime_ns
    assert "0 corrected, 3 unchanged" in own(rows, "--update")[1]
    assert (tables.stat().st_ino, tables.stat().st_mtime_ns) == before


@pytest.mark.parametrize("kind", ["jsonl", "labelstudio"])
def test_corrections_of_an_export_find_their_objects(own: Import, tmp_path: Path, kind: str) -> None:
    own([{"image": "c.png", "expression": "bird"}], "--update")  # a second bird? the same one: nothing is added
    folder, images = _exported(tmp_path / "root", tmp_path / "out", kind)
    if kind == "labelstudio":
        tasks = json.loads((folder / "tasks.json").read_text())
        for number, task in enumerate(tasks):
            task["annotations"] = [{"id": number, "result": task["predictions"][0]["result"]}]
        del tasks[0]["annotations"]  # of the two texts of one object, one was looked at
        (tmp_path / "project.json").write_text(json.dumps(tasks))
        words = ["labelstudio", str(tmp_path / "project.json"), "--images", str(images), "--root"]
        assert cli.main(["data", "import", *words, str(tmp_path / "root"), "--dataset", "own", "--update"]) == 0
        first = own_refs(tmp_path / "root")[0]
        assert first["provenance"]["corrected_from"] == ABOUT and first["provenance"]["replaced"] == {"ann_id": 1}
        assert own_masks(tmp_path / "root")["the cat"] == polygon_rle(RIGHT)
    else:
        rows = [json.loads(line) for line in (folder / "masks.jsonl").read_text().splitlines()]
        status, printed = own(rows, "--update", images=images)
        assert status == 0 and "0 corrected, 2 new masks, 1 unchanged" in printed
        assert "notice: a.png, 'left cat': it has a mask that no model made, which stays" in printed
        assert own_masks(tmp_path / "root")["the cat"] == polygon_rle(LEFT)
    assert own_masks(tmp_path / "root")["bird"] == polygon_rle(RIGHT)
    assert own_masks(tmp_path / "root", "val")["dog"] == polygon_rle(RIGHT), "it is val, as in the data set"


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            [{"image": "c.png", "expression": "bird", "polygon": p} for p in (LEFT, RIGHT)],
            "c.png, 'bird': two corrections: got 2 different masks; expected one; keep one",
        ),
        (
            [{"image": "b.png", "expression": "cat", "id": "cat", "polygon": LEFT}],
            "b.png, 'cat': photo of a known id: got 'b.png'; expected the photo of ref 1, which has this id",
        ),
    ],
)
def test_conflicts_are_named_and_change_nothing(
    own: Import, tmp_path: Path, rows: list[dict[str, Any]], problem: str
) -> None:
    before = own_refs(tmp_path / "root")
    status, printed = own(rows, "--update")
    assert status == 1 and problem in printed
    assert "0 corrected, 3 unchanged" in printed and own_refs(tmp_path / "root") == before
    assert own(rows, "--update", "--strict")[0] == 1


def test_an_expression_of_two_objects_needs_an_id(own: Import, tmp_path: Path) -> None:
    own([{"image": "c.png", "expression": "bird", "id": "second"}, {"image": "c.png", "expression": "x"}], "--update")
    draw(tmp_path / "photos" / "e.png", 5)
    own([{"image": "e.png", "expression": "cup", "id": name} for name in ("one", "two")], "--update")
    status, printed = own([{"image": "e.png", "expression": "cup", "polygon": LEFT}], "--update")
    assert status == 1 and "e.png, 'cup': expression of several objects" in printed
    status, printed = own([{"image": "e.png", "expression": "cup", "id": "two", "polygon": LEFT}], "--update")
    assert status == 0 and "1 new mask" in printed
    with_mask = [ref["source_id"] for ref in own_refs(tmp_path / "root") if "ann_id" in ref and ref["image_id"] == 4]
    assert with_mask == ["two"]


def test_a_split_file_of_before_is_refused_by_name(
    own: Import, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = str(tmp_path / "root" / "own"), tmp_path / "split.txt"
    assert cli.main(["data", "split", folder, str(out), "--count", "1"]) == 0
    load_config(capsys.readouterr().out.partition("use it: ")[2].split())
    _, printed = own([{"image": "c.png", "expression": "bird", "polygon": LEFT}], "--update")
    assert "if you made a split file for it before, it is refused now: make it again by `l2l data split`" in printed
    data = ReferDataset.open(tmp_path / "root", "own", "own")
    with pytest.raises(DataError, match="make the file again by `l2l data split`"):
        read_split(out, data.digest, data.image_ids("train"))


def test_other_files_of_the_data_set_stay_and_an_update_needs_one(own: Import, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "own"
    (folder / "notes.txt").write_text("mine")
    own([{"image": "c.png", "expression": "bird", "polygon": LEFT}], "--update")
    assert (folder / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == [".own.lock", "images", "own"]
    status, printed = own([{"image": "c.png", "expression": "bird"}], "--update", "--dataset", "other")
    assert status == 1 and "has no refs(own).p to update; import it first, without --update" in printed
    status, printed = own([{"image": "c.png", "expression": "bird"}])
    assert status == 1 and "add to it by --update" in printed
    status, printed = own([{"image": "gone.png", "expression": "bird"}], "--update")
    assert status == 1 and "gave no item; nothing is written" in printed
    record = folder / "refs(own).p"
    before = record.read_bytes()
    record.write_bytes(before[:20])
    status, printed = own([{"image": "c.png", "expression": "bird"}], "--update")
    assert status == 1 and printed.count("\n") == 1 and record.read_bytes() == before[:20]


@pytest.mark.parametrize("row", ["x", {}, {"id": "a"}, {"id": 1}])
def test_rows_that_an_update_would_lose_are_refused(own: Import, tmp_path: Path, row: Any) -> None:
    path = tmp_path / "root" / "own" / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"].append(row)
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    status, printed = own([{"image": "c.png", "expression": "bird", "polygon": LEFT}], "--update")
    assert status == 1 and printed.count("\n") == 1 and "Traceback" not in printed
    assert path.read_bytes() == before


def test_an_example_knows_nothing_of_a_merged_mask(own: Import, tmp_path: Path) -> None:
    own([{"image": "c.png", "expression": "bird", "polygon": LEFT}], "--update")
    examples, _ = ReferDataset.open(tmp_path / "root", "own", "own").examples("train")
    assert all(type(example) is Example for example in examples)


@pytest.mark.parametrize("place", [{"box": [1, 2, 9, 12]}, {"points": [[3, 4], [5, 6]]}])
def test_a_new_hint_and_a_corrected_one_are_taken_and_counted(
    own: Import, tmp_path: Path, place: dict[str, Any]
) -> None:
    row = {"image": "c.png", "expression": "bird"}
    status, printed = own([row | place], "--update")
    assert status == 0 and "0 corrected, 1 new hint, 2 unchanged" in printed
    assert own_refs(tmp_path / "root")[2]["hint"] == place
    assert "0 corrected, 3 unchanged" in own([row | place], "--update")[1]
    assert "0 corrected, 1 new hint, 2 unchanged" in own([row | {"point": [20, 9]}], "--update")[1]
    assert own_refs(tmp_path / "root")[2]["hint"] == {"points": [[20, 9]]}
    assert "0 corrected, 3 unchanged" in own([row], "--update")[1], "a row without a hint takes none away"
    status, printed = own([row | {"point": [x, 9]} for x in (2, 3)], "--update")
    assert status == 1 and "c.png, 'bird': two hints: got 2 different ones; expected one" in printed
    assert own_refs(tmp_path / "root")[2]["hint"] == {"points": [[20, 9]]}


def test_the_hint_of_an_export_is_no_new_one(own: Import, tmp_path: Path) -> None:
    odd = {"box": [1 / 3, -2, 9.12345678901, 12], "points": [[3.3333333333, 4]]}  # stands out of the photo
    own([{"image": "c.png", "expression": "bird", "hint": odd}], "--update")
    folder, images = _exported(tmp_path / "root", tmp_path / "out", "jsonl")
    rows = [json.loads(line) for line in (folder / "masks.jsonl").read_text().splitlines()]
    (bird,) = [{name: value for name, value in row.items() if name != "rle"} for row in rows if row["hint"]]
    assert "0 corrected, 3 unchanged" in own([bird], "--update", images=images)[1]


def test_where_nothing_is_shown_there_is_no_hint(own: Import, tmp_path: Path) -> None:
    row = {"image": "c.png", "expression": "bird"}
    own([row | {"point": [20, 9]}], "--update")
    own([row | {"no_target": True}], "--update")
    assert "hint" not in own_refs(tmp_path / "root")[2]
    _, printed = own([row | {"point": [20, 9]}], "--update")
    assert "c.png, 'bird': the photo does not show it, by its truth: the hint is not used" in printed


def test_no_target_of_one_text_is_not_said_of_the_others(own: Import, tmp_path: Path) -> None:
    row = {"image": "a.png", "expression": "the cat", "no_target": True}
    assert "1 corrected, 3 unchanged" in own([row], "--update")[1]
    assert own_masks(tmp_path / "root") == {"left cat": polygon_rle(LEFT), "the cat": encode(np.zeros((24, 32), bool))}
    assert "1 corrected, 3 unchanged" in own([row | {"id": "cat", "expression": "left cat"}], "--update")[1]
    assert all(ref["ann_ids"] == [] for ref in own_refs(tmp_path / "root") if ref["image_id"] == 1)


def test_a_new_category_is_taken_and_counted_and_one_that_is_not_said_stays(own: Import, tmp_path: Path) -> None:
    def category(split: str, text: str) -> str:
        examples, _ = ReferDataset.open(tmp_path / "root", "own", "own").labeled_examples(split)
        return {example.expression: example.category for example in examples}[text]

    row = {"image": "a.png", "expression": "left cat", "id": "cat"}
    status, printed = own([row | {"category": "pet"}], "--update")
    assert status == 0 and "0 corrected, 1 with a new category, 2 unchanged" in printed
    assert category("train", "the cat") == "pet"
    assert "0 corrected, 3 unchanged" in own([row | {"category": "pet"}], "--update")[1]
    assert "1 corrected, 2 unchanged" in own([row | {"polygon": RIGHT}], "--update")[1]
    assert category("train", "left cat") == "pet"
    both = [{"image": "b.png", "expression": "dog", "split": "val", "category": name} for name in ("dog", "wolf")]
    status, printed = own(both, "--update")
    assert status == 1 and "b.png, 'dog': two categories: got dog, wolf; expected one" in printed


@pytest.mark.parametrize(("row", "said"), [({"split": "testA"}, "testA"), ({}, "train, or no split")])
def test_a_split_that_stays_is_told(own: Import, tmp_path: Path, row: dict[str, str], said: str) -> None:
    _, printed = own([{"image": "b.png", "expression": "dog", "polygon": LEFT, **row}], "--update")
    assert f"notice: b.png, 'dog': the data set has it in split val, which stays; this says {said}\n" in printed
    assert own_refs(tmp_path / "root")[1]["split"] == "val"


def test_the_old_source_does_not_take_a_correction_back(own: Import, tmp_path: Path) -> None:
    old = {"image": "a.png", "expression": "left cat", "id": "cat"}
    middle = [4, 4, 12, 4, 12, 12, 4, 12]
    for points in (RIGHT, middle):
        assert "1 corrected" in own([old | {"polygon": points}], "--update")[1]
    for points in (LEFT, RIGHT):
        status, printed = own([old | {"polygon": points}], "--update")
        assert status == 0 and "0 corrected, 3 unchanged" in printed
        stays = "an older mask of it, which was corrected since, stays replaced"
        assert f"notice: a.png, 'left cat': {stays}\n" in printed
    assert own_masks(tmp_path / "root")["left cat"] == polygon_rle(middle)
    both = [old | {"polygon": LEFT}, {"image": "a.png", "expression": "the cat", "polygon": [1, 1, 9, 1, 9, 9, 1, 9]}]
    assert "1 corrected" in own(both, "--update")[1], "the old mask is none of two corrections"


@pytest.mark.parametrize("replaced", [3, {"ann_id": [1]}, {"ann_ids": 5}, {"ann_ids": [99]}, {"provenance": 1}])
def test_what_a_person_writes_as_replaced_stops_nothing(own: Import, tmp_path: Path, replaced: Any) -> None:
    row = {"image": "c.png", "expression": "bird", "provenance": {"replaced": replaced}}
    assert "1 new mask" in own([row | {"polygon": LEFT}], "--update")[1]
    status, printed = own([row | {"polygon": RIGHT}], "--update")
    assert status == 0 and "1 corrected" in printed and own_masks(tmp_path / "root")["bird"] == polygon_rle(RIGHT)


def test_a_mask_of_a_model_that_a_person_confirms_is_that_person_s(
    own: Import, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, images = _exported(tmp_path / "root", tmp_path / "out", "jsonl")
    rows = [json.loads(line) for line in (folder / "masks.jsonl").read_text().splitlines()]
    assert "2 of the masks are a model's, corrected by nobody" in own(rows, "--update", images=images)[1]
    folder, images = _exported(tmp_path / "root", tmp_path / "project", "labelstudio")
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks):
        task["annotations"] = [{"id": number, "result": task["predictions"][0]["result"]}]
    (folder / "tasks.json").write_text(json.dumps([task for task in tasks if task["data"]["expression"] != "left cat"]))
    words = ["labelstudio", str(folder / "tasks.json"), "--images", str(images), "--dataset", "own", "--update"]
    for counts in ("1 corrected, 2 confirmed, 0 unchanged", "0 corrected, 3 unchanged"):
        assert cli.main(["data", "import", *words, "--root", str(tmp_path / "root")]) == 0
        printed = capsys.readouterr().out
        assert counts in printed and "corrected by nobody" not in printed
    made = own_refs(tmp_path / "root")[2]["provenance"]
    assert made["source"] == "label_studio" and made["replaced"] == {"provenance": ABOUT}


@pytest.mark.parametrize("named", [{"id": "cat"}, {}])
def test_a_text_that_was_set_apart_does_not_come_back_to_its_object(
    own: Import, tmp_path: Path, named: dict[str, str]
) -> None:
    row = {"image": "a.png", "expression": ["left cat", "the cat"], "polygon": LEFT, **named}
    assert own([{"image": "a.png", "expression": "the cat", "no_target": True}], "--update")[0] == 0
    before = own_refs(tmp_path / "root")
    assert [ref["sent_ids"] for ref in before] == [[1], [3], [4], [2]] and before[-1]["ann_ids"] == []
    status, said = own([row], "--update")
    assert status == 0 and "0 corrected, 4 unchanged" in said, said
    assert own_refs(tmp_path / "root") == before
    assert own([{**row, "polygon": RIGHT}], "--update")[0] == 0, "the object has another mask"
    assert own_refs(tmp_path / "root")[-1] == before[-1]


@pytest.fixture
def coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    """Give a function that imports annotations of `a.png`, image 0, and `b.png`, image 1, into the data set `own`."""
    for name in ("a.png", "b.png"):
        draw(tmp_path / "photos" / name, ord(name[0]))

    def bring(annotations: list[dict[str, Any]], *more: str, names: str = "ab") -> tuple[int, str]:
        images = [{"id": n, "file_name": f"{name}.png", "width": 32, "height": 24} for n, name in enumerate(names)]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "cat"}]}
        (tmp_path / "coco.json").write_text(json.dumps(content))
        words = [str(tmp_path / "coco.json"), "--images", str(tmp_path / "photos"), "--root", str(tmp_path / "root")]
        status = cli.main(["data", "import", "coco", *words, "--dataset", "own", *more])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return bring


def _row(ann_id: int, image_id: int, text: str, points: list[int] = LEFT, **changes: Any) -> dict[str, Any]:
    return {"id": ann_id, "image_id": image_id, "expression": text, "segmentation": [points], **changes}


def test_ids_of_coco_that_are_0_are_ids_and_not_none(coco: Import, tmp_path: Path) -> None:
    assert coco([_row(0, 0, "cat", category_id=0), _row(1, 1, "dog")])[0] == 0
    draw(tmp_path / "photos" / "c.png", 3)
    rows = [{"image": "c.png", "expression": "cat", "polygon": LEFT}, {"image": "b.png", "expression": "x", "id": "x"}]
    rows[1] |= {"polygon": RIGHT}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [str(tmp_path / "rows.jsonl"), "--images", str(tmp_path / "photos"), "--root", str(tmp_path / "root")]
    assert cli.main(["data", "import", "rows", *words, "--dataset", "own", "--update"]) == 0
    assert coco([_row(1, 1, "dog", RIGHT)], "--update")[0] == 0, "an annotation without a category"
    examples, _ = ReferDataset.open(tmp_path / "root", "own", "own").labeled_examples("train")
    found = [(Path(example.image_path).name, example.expression, example.category) for example in examples]
    assert sorted(found) == [("a.png", "cat", "cat"), ("b.png", "dog", ""), ("b.png", "x", ""), ("c.png", "cat", "")]


def test_objects_of_one_text_are_known_by_their_annotation_id_or_mask(coco: Import, tmp_path: Path) -> None:
    assert coco([_row(1, 0, "cat"), _row(2, 0, "cat", RIGHT), _row(3, 1, "dog")])[0] == 0
    assert "0 corrected, 3 unchanged" in coco([_row(1, 0, "cat"), _row(2, 0, "cat", RIGHT)], "--update")[1]
    other = [4, 4, 10, 4, 10, 12, 4, 12]
    assert "1 corrected, 2 unchanged" in coco([_row(2, 0, "cat", other)], "--update")[1]
    masks = [
        example.mask_rle for example in ReferDataset.open(tmp_path / "root", "own", "own").labeled_examples("train")[0]
    ]
    assert masks == [polygon_rle(LEFT), polygon_rle(other), polygon_rle(LEFT)]
    assert "0 corrected, 3 unchanged" in coco([_row(7, 0, "cat", other)], "--update")[1], "an id of another file"
    status, printed = coco([_row(7, 0, "cat", RIGHT)], "--update")
    assert status == 0 and "0 corrected, 3 unchanged" in printed and "which was corrected since, stays" in printed
    assert "1 new object, 3 unchanged" in coco([_row(3, 0, "tree")], "--update")[1], "ids that count anew"


def test_an_annotation_of_coco_with_another_id_is_another_object_unless_its_place_is_the_same(
    coco: Import, tmp_path: Path
) -> None:
    box = {"segmentation": [], "bbox": [2, 2, 5, 6]}
    known = [_row(1, 0, "cat"), _row(2, 1, "dog", **box)]
    assert coco(known)[0] == 0
    more = [_row(3, 0, "cat", RIGHT), _row(4, 1, "dog", segmentation=[], bbox=[20, 2, 5, 6])]
    for new in ("0 corrected, 1 new mask, 2 new objects, 2 unchanged", "0 corrected, 4 unchanged"):
        status, printed = coco([*known, *more], "--update")
        assert status == 0 and new in printed, printed
    same = [_row(9, 0, "cat", RIGHT), _row(8, 1, "dog", **box)]
    assert "0 corrected, 4 unchanged" in coco(same, "--update")[1], "another file, which counts anew"
    drawn = _row(18, 1, "dog", segmentation=[[2, 2, 7, 2, 7, 8, 2, 8]], bbox=box["bbox"])
    status, printed = coco([drawn], "--update")
    assert status == 0 and "0 corrected, 1 new mask, 3 unchanged" in printed, "the mask of what had a box alone"
