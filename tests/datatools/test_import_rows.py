"""Own data: every form gives the same data set, every bad row is named, and nothing outside is read or half written."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from l2l_ray.data.layout import BadValue, Problem
from l2l_ray.data.masks import mask_area_px
from l2l_ray.data.plain_pickle import plain_records
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.check import check
from l2l_ray.datatools.import_rows import import_rows
from l2l_ray.datatools.inventory import take_inventory
from l2l_ray.datatools.refer_writer import ReferWriter
from l2l_ray.datatools.row_files import read_rows
from l2l_ray.datatools.stats import statistics
from l2l_ray.errors import DataError
from l2l_ray.types import Hint
from tests.refer_folder import draw

POLYGON = [2, 2, 20, 2, 2, 14]
ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "expression": "left  man", "polygon": POLYGON, "category": "person", "id": "m"},
    {"image": "a.png", "expression": "man in red", "id": "m"},
    {"image": "sub/b.png", "expression": "dog", "box": [1, 1, 5, 5]},
    {"image": "sub/b.png", "expression": "cat"},
    {"image": "c.png", "expression": "tree", "polygon": POLYGON, "split": "val"},
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.png", "sub/b.png", "c.png")):
        draw(tmp_path / "pictures" / name, number)
    return tmp_path / "pictures"


def convert(rows: Any, pictures: Path, root: Path, copy: bool = False) -> list[Problem]:
    with ReferWriter(root, "own", "own", copy) as writer:
        problems = import_rows(rows, pictures, pictures, writer)
        writer.write()
    return problems


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_cocos_own_reader_opens_what_has_categories_in_part(pictures: Path, tmp_path: Path) -> None:
    convert(read_rows(write_jsonl(tmp_path / "rows.jsonl", ROWS)), pictures, tmp_path / "root")
    coco = COCO(str(tmp_path / "root" / "own" / "instances.json"))
    assert [coco.annToMask(row).any() for row in coco.loadAnns(coco.getAnnIds())] == [True, True]
    inventory = take_inventory(tmp_path / "root" / "own")
    named = [inventory.categories.get(inventory.category_id(item) or 0, "") for item in inventory.items]
    assert named == ["person", "", "", ""] and not inventory.problems
    examples, _ = ReferDataset.open(tmp_path / "root", "own", "own").labeled_examples("val")
    assert [example.category for example in examples] == [""]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    fields = ["image", "expression", "polygon", "box", "split", "id", "category"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    names = sorted({name for row in rows for name in row})
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_of_every_format_give_the_same_data_set(tmp_path: Path, pictures: Path, kind: str) -> None:
    write = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}[kind]
    path = write(tmp_path / f"own.{kind}", ROWS)
    assert convert(read_rows(path), pictures, tmp_path / "root") == []
    data = ReferDataset.open(tmp_path / "root", "own", "own")
    assert data.splits == ("train", "val")
    examples, skips = data.examples("train")
    assert [(e.ref_id, e.image_id, e.expression) for e in examples] == [
        (1, 1, "left man"), (1, 1, "man in red"), (2, 2, "dog"), (3, 2, "cat"),
    ]  # fmt: skip
    assert skips == []
    labeled, skips = data.labeled_examples("train")
    assert [(e.expression, e.category) for e in labeled] == [("left man", "person"), ("man in red", "person")]
    assert [skip.kind for skip in skips] == ["missing_mask", "missing_mask"]  # a box alone, and nothing
    box = Hint((1 / 32, 1 / 24, 6 / 32, 6 / 24), ())
    assert [e.hint for e in examples] == [None, None, box, None]
    assert Path(examples[2].image_path).resolve() == pictures / "sub" / "b.png"
    triangle = ([2.0, 2.0, 17.0, 12.0], False)  # of the mask: no pixel center lies left of the tip at x = 20
    instances = json.loads((tmp_path / "root" / "own" / "instances.json").read_text())
    assert [(a["bbox"], a["segmentation"] == []) for a in instances["annotations"]] == [triangle, triangle]


def test_pictures_are_linked_or_copied(tmp_path: Path, pictures: Path) -> None:
    convert(iter([("x", ROWS[0])]), pictures, tmp_path / "linked")
    convert(iter([("x", ROWS[0])]), pictures, tmp_path / "copied", copy=True)
    assert (tmp_path / "linked" / "images" / "own" / "a.png").is_symlink()
    assert not (tmp_path / "copied" / "images" / "own" / "a.png").is_symlink()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.png"}, "expression: got None; expected a text that is not empty"),
        ({"image": "a.png", "expression": "  "}, "expression: got"),
        ({"image": "a.png", "expression": []}, "expression: got"),
        ({"image": "a.png", "expression": ["x", 3]}, "expression: got 3"),
        (
            {"image": "a.png", "expression": "\ud800"},
            "expression: got '\\ud800'; expected text that can be written as UTF-8",
        ),
        ({"image": "gone.png", "expression": "x"}, "missing image: got 'gone.png'"),
        ({"image": "../own.jsonl", "expression": "x"}, "image: got '../own.jsonl'; expected a path below"),
        ({"image": "/etc/hostname", "expression": "x"}, "image: got '/etc/hostname'; expected a path below"),
        ({"image": "notes.txt", "expression": "x"}, "unreadable image"),
        ({"expression": "x"}, "image: got None"),
        (
            {"image": "a.png", "expression": "x", "split": "validation"},
            "split: got 'validation'; expected one of train, val",
        ),
        ({"image": "a.png", "expression": "x", "split": ["val"]}, "split: got ['val']"),
        (
            {"image": "a.png", "expression": "x", "mask_path": "m"},
            "column: got 'mask_path'; expected one of image, expression",
        ),
        ({"image": "a.png", "expression": "x", "category": 3}, "category: got 3"),
        ({"image": "a.png", "expression": "x", "id": 1.5}, "id: got 1.5"),
        ({"image": "a.png", "expression": "x", "polygon": [1, 2]}, "polygon: got [1, 2]"),
        ({"image": "a.png", "expression": "x", "box": [1, 1, -3, 2]}, "hint box: got [1, 1, -3, 2]"),
        ({"image": "c.png", "expression": "x", "box": [1, 1, 0, 2], "split": "test"}, "hint box: got [1, 1, 0, 2]"),
        ({"image": "c.png", "expression": "x", "id": "m"}, "image of a repeated id: got 'c.png'; expected 'a.png'"),
        ({"image": "a.png", "expression": "x", "id": "m", "split": "val"}, "split of a photo: got val for 'a.png'"),
        ({"image": "a.png", "expression": "x", "id": "m", "category": "dog"}, "category of a repeated id"),
        ({"image": "a.png", "expression": "x", "id": "m", "polygon": POLYGON[::-1]}, "truth of a repeated id"),
    ],
)
def test_a_bad_row_is_named_and_the_others_go_on(
    tmp_path: Path, pictures: Path, row: dict[str, Any], message: str
) -> None:
    (pictures / "notes.txt").write_text("no picture")
    path = write_jsonl(tmp_path / "own.jsonl", [ROWS[0], row, ROWS[4]])
    problems = convert(read_rows(path), pictures, tmp_path / "root")
    assert len(problems) == 1
    assert str(problems[0]).startswith("own.jsonl line 2: " + message)
    data = ReferDataset.open(tmp_path / "root", "own", "own")
    assert len(data.labeled_examples("train")[0]) == 1
    assert len(data.labeled_examples("val")[0]) == 1


PLACE = {"image": "c.png", "expression": "x"}


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"box": [4, 6, 8, 12]}, {"box": [4, 6, 8, 12]}),
        ({"box": "[4, 6, 8, 12]"}, {"box": [4, 6, 8, 12]}),  # as a CSV cell
        ({"point": [4, 6]}, {"points": [[4, 6]]}),
        ({"points": [[4, 6], [5, 7]]}, {"points": [[4, 6], [5, 7]]}),
        ({"points": "[[4, 6]]", "box": [4, 6, 8, 12]}, {"box": [4, 6, 8, 12], "points": [[4, 6]]}),
        ({"hint": {"box": [4, 6, 8, 12], "points": None}}, {"box": [4, 6, 8, 12]}),
        ({"hint": '{"points": [[4, 6]]}'}, {"points": [[4, 6]]}),
        ({"polygon": POLYGON, "box": [2, 2, 18, 12]}, None),  # the box of a mask belongs to the truth
        ({"polygon": POLYGON, "hint": {"box": [4, 6, 8, 12]}}, {"box": [4, 6, 8, 12]}),
        ({"polygon": POLYGON, "point": [4, 6]}, {"points": [[4, 6]]}),
        ({}, None),
    ],
)
def test_boxes_and_points_are_hints_unless_a_mask_owns_the_box(
    tmp_path: Path, pictures: Path, fields: dict[str, Any], hint: Any
) -> None:
    assert convert(iter([("x", PLACE | fields)]), pictures, tmp_path / "root") == []
    (ref,) = plain_records(tmp_path / "root" / "own" / "refs(own).p")
    assert ref.get("hint") == hint
    assert ("ann_id" in ref) == ("polygon" in fields)
    (example,), skips = ReferDataset.open(tmp_path / "root", "own", "own").examples("train")
    assert (example.hint is None) == (hint is None) and skips == []
    inventory = take_inventory(tmp_path / "root" / "own")
    assert check(inventory) == []
    assert any(line.startswith("hints: ") for line in statistics(inventory)) == (hint is not None)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"box": [40, 6, 8, 12]}, "hint box outside image"),
        ({"box": [4, 6, 0, 12]}, "hint box"),
        ({"box": [4, 6, float("nan"), 12]}, "hint box"),
        ({"box": [4, 6, 8]}, "hint box"),
        ({"box": "left"}, "box"),
        ({"point": [4, 60]}, "hint point outside image"),
        ({"point": [4]}, "hint points"),
        ({"points": [[4, 6], 7]}, "hint points"),
        ({"point": [4, 6], "points": [[4, 6]]}, "hint"),
        ({"hint": {"box": [4, 6, 8, 12]}, "point": [4, 6]}, "hint"),
        ({"hint": {"bbox": [4, 6, 8, 12]}}, "hint"),
        ({"hint": {}}, "hint"),
        ({"hint": [4, 6, 8, 12]}, "hint"),
        ({"no_target": True, "point": [4, 6]}, "no_target"),
        ({"no_target": True, "box": [4, 6, 8, 12]}, "no_target"),
    ],
)
def test_a_bad_hint_is_named_and_its_item_stays(
    tmp_path: Path, pictures: Path, fields: dict[str, Any], what: str
) -> None:
    (problem,) = convert(iter([("x", PLACE | fields)]), pictures, tmp_path / "root")
    assert problem.what == what
    (example,), _ = ReferDataset.open(tmp_path / "root", "own", "own").examples("train")
    assert example.hint is None


def test_rows_of_one_id_share_one_hint(tmp_path: Path, pictures: Path) -> None:
    box = {"box": [4, 6, 8, 12], "id": "c"}
    rows = [PLACE | box, PLACE | {"id": "c", "polygon": POLYGON}, PLACE | box, PLACE | box | {"box": [5, 6, 8, 12]}]
    rows += [PLACE | {"id": "c", "no_target": True}, PLACE | {"id": "d", "no_target": True}, PLACE | box | {"id": "d"}]
    problems = convert(((str(k), row) for k, row in enumerate(rows)), pictures, tmp_path / "root")
    assert [(p.where, p.what) for p in problems] == [
        ("3", "hint of a repeated id"), ("4", "no_target of a repeated id"), ("6", "no_target of a repeated id"),
    ]  # fmt: skip
    labeled, _ = ReferDataset.open(tmp_path / "root", "own", "own").labeled_examples("train")
    assert [(e.sent_id, e.hint is not None) for e in labeled] == [(1, True), (2, False)]


def test_lines_that_are_no_json_objects(tmp_path: Path, pictures: Path) -> None:
    lines = [b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"", b'{"image": "a.png", "expression": "x"}', b"1" * 5000]
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"\n".join(lines))
    problems = convert(read_rows(path), pictures, tmp_path / "root")
    assert [problem.where for problem in problems] == [f"own.jsonl line {n}" for n in (1, 2, 3, 4, 7)]


def test_csv_rows_with_too_many_or_too_few_cells(tmp_path: Path, pictures: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text('image,expression\na.png,x\na.png,x,y\na.png\nc.png,"open\n')
    problems = convert(read_rows(path), pictures, tmp_path / "root")
    assert [(p.where, p.what) for p in problems] == [
        ("own.csv line 3", "CSV"), ("own.csv line 4", "CSV"), ("own.csv after line 4", "CSV"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["own.xml", "gone.jsonl", "torn.parquet", "latin.csv"])
def test_files_that_cannot_be_read_at_all(tmp_path: Path, name: str) -> None:
    (tmp_path / "own.xml").write_text("")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "latin.csv").write_bytes("image,expression\na.png,m\xe4\n".encode("latin-1"))
    with pytest.raises(DataError, match=name.partition(".")[0]):
        list(read_rows(tmp_path / name))


def test_without_a_good_row_nothing_is_written(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(DataError, match="no usable item for .*own; nothing is written"):
        convert(iter([("x", {"image": "gone.png"})]), pictures, tmp_path / "root")
    assert not list((tmp_path / "root").glob("*"))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=6), max_leaves=8)
names = st.sampled_from(["image", "expression", "mask", "rle", "polygon", "box", "split", "id", "category", "x"])
paths = st.sampled_from(
    ["a.png", "c.png", "../secret.png", "/etc/passwd", "sub/../../secret.png", "link.png", "", "\0"]
)
wild_rows = st.dictionaries(names, values, max_size=5)
mild_rows = st.builds(
    lambda row, image, text: {"expression": text, **row, "image": image}, wild_rows, paths, st.text(min_size=1)
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(wild_rows | mild_rows, max_size=4))
def test_any_row_is_imported_or_a_problem(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    draw(root / "pictures" / "a.png", 1)
    draw(root / "pictures" / "c.png", 2)
    draw(root / "secret.png", 3)
    (root / "pictures" / "link.png").symlink_to(root / "secret.png")
    with ReferWriter(root / "data", "own", "own") as writer:
        problems = import_rows(
            ((f"row {n}", row) for n, row in enumerate(rows)), root / "pictures", root / "pictures", writer
        )
        assert len(writer.refs) <= len(rows)
        named = {problem.where for problem in problems if problem.what != "column"}
        repeated = sum("says the same as an earlier row" in notice.text for notice in writer.notices)
        num_told = len(named) + repeated + sum(len(ref["sentences"]) for ref in writer.refs)
        assert len(rows) <= num_told, "no row goes in silence"
        assert {image["file_name"] for image in writer.images.values()} <= {"a.png", "c.png", "link.png"}
        if writer.refs:
            writer.write()
            ReferDataset.open(root / "data", "own", "own")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: b"image,expression\n" + text.encode()))
@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_any_file_is_rows_problems_or_a_data_error(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"own.{ending}"
    path.write_bytes(content)
    try:
        rows = list(read_rows(path))
    except DataError as error:
        assert not isinstance(error, BadValue)
        return
    assert all(isinstance(row, Problem | dict) for _, row in rows)


def test_long_cells_are_read(tmp_path: Path) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerows([["image", "expression", "polygon"], ["a.png", "x", json.dumps([1.5] * 100_000)]])
    (tmp_path / "own.csv").write_text(stream.getvalue())
    ((_, row),) = read_rows(tmp_path / "own.csv")
    assert isinstance(row, dict)
    assert len(row["polygon"]) > 131_072


def test_provenance_stays_with_the_ref_and_no_target_is_a_truth(tmp_path: Path, pictures: Path) -> None:
    made = {"source": "label_studio", "corrected_from": {"round": 2}, "score": None}
    rows = [
        {"image": "a.png", "expression": "left man", "polygon": POLYGON, "id": "m", "provenance": made},
        {"image": "a.png", "expression": "unicorn", "no_target": True},
        {"image": "a.png", "expression": "another unicorn", "no_target": False},
    ]
    assert convert(read_rows(write_jsonl(tmp_path / "own.jsonl", rows)), pictures, tmp_path / "root") == []
    records = plain_records(tmp_path / "root" / "own" / "refs(own).p")
    assert [record.get("provenance") for record in records] == [made, None, None]
    labeled, skips = ReferDataset.open(tmp_path / "root", "own", "own").labeled_examples("train")
    assert [(e.expression, mask_area_px(e.mask_rle) > 0) for e in labeled] == [("left man", True), ("unicorn", False)]
    assert [skip.kind for skip in skips] == ["missing_mask"]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"no_target": 2}, "no_target: got 2"),
        ({"no_target": True, "polygon": POLYGON}, "no_target: got true beside a mask"),
        ({"no_target": True, "id": "m"}, "no_target of a repeated id"),
        ({"provenance": "me"}, "provenance: got 'me' (JSONDecodeError"),
        ({"provenance": ["me"]}, "provenance: got ['me']"),
    ],
)
def test_bad_provenance_and_no_target_are_named(
    tmp_path: Path, pictures: Path, fields: dict[str, Any], what: str
) -> None:
    rows = [{"image": "a.png", "expression": "man", "polygon": POLYGON, "id": "m"}]
    rows.append({"image": "a.png", "expression": "dog", **fields})
    (problem,) = convert(read_rows(write_jsonl(tmp_path / "own.jsonl", rows)), pictures, tmp_path / "root")
    assert what in str(problem) and problem.where == "own.jsonl line 2"


def test_no_target_in_a_csv_cell(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "own.csv").write_text("image,expression,no_target\na.png,unicorn,True\na.png,dog,\na.png,cat,maybe\n")
    (problem,) = convert(read_rows(tmp_path / "own.csv"), pictures, tmp_path / "root")
    assert "no_target: got 'maybe'; expected true or false" in str(problem)
    examples, _ = ReferDataset.open(tmp_path / "root", "own", "own").labeled_examples("train")
    assert [e.expression for e in examples] == ["unicorn"]


def test_a_link_to_the_pictures_of_another_set_is_not_written_through(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "root" / "images" / "other").mkdir(parents=True)
    (tmp_path / "root" / "images" / "own").symlink_to(tmp_path / "root" / "images" / "other")
    with pytest.raises(DataError, match=r"is a link to a folder that lacks 1 picture of these \(a\.png\), and nothing"):
        convert(iter([("x", ROWS[0])]), pictures, tmp_path / "root")
    assert not list((tmp_path / "root" / "images" / "other").iterdir())


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_who_made_a_truth_is_taken_from_the_row_that_brings_it(
    tmp_path: Path, pictures: Path, order: tuple[int, int]
) -> None:
    bare = {"image": "a.png", "expression": "cup", "provenance": {"source": "prediction"}, "confidence": 0.3}
    drawn = {"image": "a.png", "expression": "the cup", "provenance": {"source": "hand"}, "polygon": POLYGON}
    refused = {"image": "c.png", "expression": "tree", "polygon": [1, 2], "confidence": 0.3}
    rows = [{**(bare, drawn)[number], "id": "m"} for number in order]
    convert(read_rows(write_jsonl(tmp_path / "own.jsonl", [*rows, refused])), pictures, tmp_path / "root")
    cup, tree = plain_records(tmp_path / "root" / "own" / "refs(own).p")
    assert cup["provenance"] == {"source": "hand"} and "confidence" not in cup
    assert "confidence" not in tree, "its mask is not there"


def test_a_photo_to_learn_from_is_not_evaluated_on(tmp_path: Path, pictures: Path) -> None:
    splits = {"left man": "train", "man": "test", "dog": "val", "cat": "testA"}
    photos = {"left man": "a.png", "man": "a.png", "dog": "c.png", "cat": "c.png"}
    rows = [{"image": photos[text], "expression": text, "split": split} for text, split in splits.items()]
    (problem,) = convert(read_rows(write_jsonl(tmp_path / "own.jsonl", rows)), pictures, tmp_path / "root")
    assert str(problem).startswith("own.jsonl line 2: split of a photo: got test for 'a.png'; expected train, as an")
    records = plain_records(tmp_path / "root" / "own" / "refs(own).p")
    assert [record["sentences"][0]["sent"] for record in records] == ["left man", "dog", "cat"]
