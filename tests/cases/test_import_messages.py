"""Inputs that people handed in to import and check: what is wrong is named in one line, and what is right is taken."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from l2l_ray.data.masks import mask_area_px
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.check import check
from l2l_ray.datatools.commands import data_command
from l2l_ray.datatools.inventory import take_inventory
from l2l_ray.errors import DataError

CASES = Path(__file__).parent


def run(tmp_path: Path, kind: str, source: Path, *more: str) -> tuple[int, list[str]]:
    """Import as a person does; the exit status and the lines."""
    lines: list[str] = []
    words = ["import", kind, str(source), "--root", str(tmp_path / "root"), "--dataset", "own", *more]
    return data_command(words, lines.append), lines


def photos(case: str) -> tuple[str, ...]:
    return "--images", str(CASES / case / "ph")


def opened(tmp_path: Path) -> ReferDataset:
    return ReferDataset.open(tmp_path / "root", "own", "own", cache_dir=tmp_path / "cache")


def areas(tmp_path: Path) -> list[int]:
    return [mask_area_px(example.mask_rle) for example in opened(tmp_path).labeled_examples("train")[0]]


def test_12_an_image_id_of_two_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gave no item; nothing is written; correct the problems above"):
        run(tmp_path, "coco", CASES / "12/coco.json", *photos("12"))
    lines: list[str] = []
    words = ["import", "coco", str(CASES / "12/coco.json"), "--root", str(tmp_path), "--dataset", "own", *photos("12")]
    with pytest.raises(DataError):
        data_command(words, lines.append)
    assert "image id: got 1 for 'p.png' and 'sub/q.png'; expected an id that is used once" in lines[0]


def test_13_a_prompt_beside_the_brush_is_no_region(tmp_path: Path) -> None:
    status, lines = run(tmp_path, "labelstudio", CASES / "13/ls.json", "--images", str(CASES / "13"))
    assert status == 0 and areas(tmp_path) == [1200]
    assert "notice: ls.json task 1: keypointlabels beside the mask: taken for a prompt and not used" in lines


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("null_expression", "task 1: expression: got None; expected a text that is not empty"),
        ("huge", "task 1: image size: got 1000000; expected an integer from 1 to 65535 px"),
        ("inf", "task 1: image size: got inf; expected an integer from 1 to 65535 px"),
    ],
)
def test_14_damaged_values_are_named(tmp_path: Path, name: str, message: str) -> None:
    words = ["import", "labelstudio", str(CASES / f"14/{name}.json"), "--root", str(tmp_path / "root")]
    lines: list[str] = []
    try:
        status = data_command([*words, "--dataset", "own", "--images", str(CASES / "14")], lines.append)
    except DataError:
        assert name == "null_expression", "an item without a mask stays"
    else:
        assert status == 1 and [e.expression for e in opened(tmp_path).examples("train")[0]] == ["red ball"]
    assert message in lines[0]


def test_14_nobody_annotated(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no task has an annotation; submit some tasks in Label Studio") as error:
        run(tmp_path, "labelstudio", CASES / "14/no_annotations.json", "--images", str(CASES / "14"))
    assert "problems" not in str(error.value)


def test_16_the_index_of_pandas_is_no_column(tmp_path: Path) -> None:
    status, lines = run(tmp_path, "rows", CASES / "16/rows.parquet", *photos("16"))
    assert "__index_level_0__" in pq.read_schema(CASES / "16/rows.parquet").names
    assert status == 0 and len(opened(tmp_path).refs()) == 3
    assert any("notice: rows.parquet: the index of pandas" in line for line in lines)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("coco", "string_ids.json", "image_id: got '1' (text); expected an integer"),
        ("coco", "pairs.json", "expected one flat list: x, y, x, y, ...; write one flat list for each polygon"),
        ("coco", "swapped_rle.json", "does not fit its image of [120, 160]; correct one of them; expected"),
        ("rows", "semicolon.csv", "notice: semicolon.csv line 1: the cells are separated by ';'"),
        (
            "rows",
            "spaces.csv",
            "notice: spaces.csv line 1: blanks around cells are left out, as those of the column ' expression'",
        ),
    ],
)
def test_18_the_cause_is_in_the_message(tmp_path: Path, kind: str, name: str, message: str) -> None:
    words = ["import", kind, str(CASES / "18" / name), "--root", str(tmp_path), "--dataset", "own", *photos("18")]
    lines: list[str] = []
    try:
        data_command(words, lines.append)
    except DataError as error:
        lines.append(str(error))
    assert message in "\n".join(lines)
    assert not [line for line in lines if "DataError(" in line or "see the problems" in line or "\n" in line]


def test_18_a_semicolon_table_is_read(tmp_path: Path) -> None:
    status, _ = run(tmp_path, "rows", CASES / "18/semicolon.csv", *photos("18"))
    assert status == 0 and len(areas(tmp_path)) == 1


def test_18_no_annotation_carries_an_expression(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotation carries an expression"):
        run(tmp_path, "coco", CASES / "18/no_text.json", *photos("18"))


def test_19_check_names_what_the_loader_refuses(tmp_path: Path) -> None:
    shutil.copytree(CASES / "19/root", tmp_path / "root")
    (problem, *_) = check(take_inventory(tmp_path / "root/d"))
    assert problem.what == "sent_id" and "an id that is used once" in str(problem)
    with pytest.raises(DataError, match="sent_id: got 1; expected an id that is used once"):
        ReferDataset.open(tmp_path / "root", "d", "own", cache_dir=tmp_path / "cache")


def test_21_a_mask_beside_its_box_is_no_truth(tmp_path: Path) -> None:
    status, lines = run(tmp_path, "coco", CASES / "21/counts.json", *photos("21"))
    assert status == 1 and "mask outside its box: got a mask with the box [13, 30, 77, 30] beside the box" in lines[0]
    assert areas(tmp_path) == [] and len(opened(tmp_path).refs()) == 1, "the item stays, unlabeled"


def test_22_a_photo_is_no_mask(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="correct the problems above"):
        run(tmp_path, "folder", CASES / "22/f")
    folder = shutil.copytree(CASES / "22/f", tmp_path / "f")
    (folder / "same.png").rename(folder / "other.png")
    (folder / "other.txt").write_text("dog\n")
    assert run(tmp_path, "folder", folder)[0] == 0
    assert len(opened(tmp_path).refs()) == 2 and areas(tmp_path) == []


@pytest.mark.parametrize(("name", "message"), [("dup.csv", "not expression again"), ("dup.jsonl", "is there twice")])
def test_23_names_that_come_twice(tmp_path: Path, name: str, message: str) -> None:
    lines: list[str] = []
    words = ["import", "rows", str(CASES / "23" / name), "--root", str(tmp_path), "--dataset", "own", *photos("23")]
    with pytest.raises(DataError, match="gave no item"):
        data_command(words, lines.append)
    assert message in lines[0]


def test_a_misspelt_column_is_one_line_and_the_rows_stay(tmp_path: Path) -> None:
    rows = "".join(f'p.png,ball {n},"[[15,5,65,5,65,55]]"\n' for n in range(40))
    (tmp_path / "own.csv").write_text("image,expression,polygons\n" + rows)
    status, lines = run(tmp_path, "rows", tmp_path / "own.csv", *photos("18"))
    assert status == 1 and len(opened(tmp_path).refs()) == 40
    (line,) = [line for line in lines if line.startswith("own.csv line 2 and 39 more: column: got 'polygons'")]
    assert "did you mean polygon by 'polygons'?" in line


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252"])
def test_tables_of_other_encodings_are_one_line(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "own.csv").write_bytes("image,expression\np.png,Bär\n".encode(encoding))
    with pytest.raises(DataError, match="save it as UTF-8"):
        run(tmp_path, "rows", tmp_path / "own.csv", *photos("18"))


@pytest.mark.parametrize("head", [",image,expression", "Unnamed: 0,image,expression", "index,image,expression"])
def test_an_index_in_a_table_is_no_column(tmp_path: Path, head: str) -> None:
    (tmp_path / "own.csv").write_text(f"{head}\n0,p.png,ball\n1,p.png,box\n")
    status, _ = run(tmp_path, "rows", tmp_path / "own.csv", *photos("18"))
    assert status == 0 and len(opened(tmp_path).refs()) == 2


def test_a_bad_mask_leaves_its_item_unlabeled(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text('image,expression,polygon\np.png,ball,"[1, 2]"\np.png,box,"[5,5,50,5,50,50]"\n')
    status, lines = run(tmp_path, "rows", tmp_path / "own.csv", *photos("18"))
    assert status == 1 and "polygon: got [1, 2]" in lines[0]
    assert [e.expression for e in opened(tmp_path).examples("train")[0]] == ["ball", "box"]
    assert [e.expression for e in opened(tmp_path).labeled_examples("train")[0]] == ["box"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file")
    with pytest.raises(DataError, match="root/own' cannot be written: "):
        run(tmp_path, "rows", CASES / "18/semicolon.csv", *photos("18"))
    with pytest.raises(DataError, match="cannot be written: File name too long"):
        data_command(
            ["import", "rows", str(CASES / "18/semicolon.csv"), "--root", str(tmp_path), "--dataset", "x" * 300],
            lambda _: None,
        )


def test_pictures_of_one_name_and_names_that_differ_in_capitals(tmp_path: Path) -> None:
    photo = CASES / "18/ph/p.png"
    folder = tmp_path / "f"
    folder.mkdir()
    for name in ("same.png", "same.bmp", "A.png", "a.png"):
        shutil.copy(photo, folder / name)
    for name in ("same.txt", "A.txt", "a.txt"):
        (folder / name).write_text(f"of {name}\n")
    status, lines = run(tmp_path, "folder", folder)
    assert status == 1 and "pictures of one name: got same.bmp and same.png" in lines[0]
    texts = {Path(e.image_path).name: e.expression for e in opened(tmp_path).examples("train")[0]}
    assert texts == {"A.png": "of A.txt", "a.png": "of a.txt"}


def test_a_drawn_mask_with_smooth_edges_is_a_mask(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    Image.open(CASES / "18/ph/p.png").convert("RGB").save(folder / "p.jpg")
    (folder / "p.txt").write_text("ball\n")
    mask = np.zeros((120, 160), np.uint8)
    mask[20:60, 20:60], mask[20:60, 60] = 255, 128
    Image.fromarray(mask).save(folder / "p.png")
    assert run(tmp_path, "folder", folder)[0] == 0
    (area,) = areas(tmp_path)
    assert 40 * 40 <= area <= 40 * 41


@pytest.mark.parametrize("levels", [["photo"], ["photo", "number"], ["image"]])
def test_named_indexes_of_pandas(tmp_path: Path, levels: list[str]) -> None:
    frame = pd.DataFrame(
        {"photo": ["a", "b"], "number": [1, 2], "image": ["p.png", "p.png"], "expression": ["ball", "box"]}
    )
    frame[[*levels, *(name for name in ("image", "expression") if name not in levels)]].set_index(levels).to_parquet(
        tmp_path / "own.parquet"
    )
    assert run(tmp_path, "rows", tmp_path / "own.parquet", *photos("18"))[0] == 0
    assert len(opened(tmp_path).refs()) == 2


@pytest.mark.parametrize("kind", ["coco", "labelstudio"])
def test_a_key_that_comes_twice_in_an_object_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.json").write_text('{"images": [], "annotations": [{"id": 1, "caption": "a", "caption": "b"}]}')
    with pytest.raises(DataError, match="the key 'caption' is there twice in one object; keep one of them"):
        run(tmp_path, kind, tmp_path / "x.json")


def test_a_file_of_two_ids_with_two_sizes_is_named(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": "p.png", "width": 160 + i, "height": 120} for i in (0, 1)]
    rows = [{"id": i, "image_id": i, "bbox": [1, 1, 5, 5], "caption": "ball"} for i in (0, 1)]
    (tmp_path / "x.json").write_text(json.dumps({"images": images, "annotations": rows}))
    status, lines = run(tmp_path, "coco", tmp_path / "x.json")
    assert status == 1 and "image size: got 161 x 120 px for 'p.png'" in lines[0]
    assert len(opened(tmp_path).refs()) == 1


def test_one_json_list_is_no_table_of_rows(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('[{"image": "p.png"},\n{"image": "p.png"}]')
    with pytest.raises(DataError, match="holds one JSON list, expected one object per line"):
        run(tmp_path, "rows", tmp_path / "own.jsonl", *photos("18"))


def test_a_mask_much_smaller_than_its_box_is_a_notice_of_import_and_check(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "p.png", "width": 160, "height": 120}
    polygon = [[10, 10, 30, 10, 30, 30, 10, 30]]
    row = {"id": 1, "image_id": 1, "bbox": [0, 0, 150, 110], "segmentation": polygon, "caption": "ball"}
    (tmp_path / "x.json").write_text(json.dumps({"images": [image], "annotations": [row]}))
    status, lines = run(tmp_path, "coco", tmp_path / "x.json", *photos("18"))
    told = "the mask has the box [10, 10, 20, 20], the annotation the box [0, 0, 150, 110]"
    assert status == 0 and told in lines[0]
    lines.clear()
    assert data_command(["check", str(tmp_path / "root/own")], lines.append) == 0
    assert told in lines[0] and "1 ref, no problems" in lines[-1]
