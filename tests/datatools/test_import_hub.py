"""The Parquet forms of the hub, written here by their published schema: what comes out, and the notices."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from l2l_ray import cli
from l2l_ray.data.layout import Problem
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.import_hub import COCO_CATEGORIES, import_jxu124, import_lmms, lmms_notices
from l2l_ray.datatools.merge import merge
from l2l_ray.datatools.refer_writer import ReferWriter
from l2l_ray.errors import DataError
from tests.refer_folder import TRIANGLE, draw

SENTENCES = pa.list_(
    pa.struct([("raw", pa.string()), ("sent", pa.string()), ("sent_id", pa.int64()), ("tokens", pa.list_(pa.string()))])
)
# `dataset_info` of the dataset cards of jxu124/refcoco (main) and lmms-lab/RefCOCO.
JXU124 = pa.schema(
    [("sent_ids", pa.list_(pa.int64())), ("file_name", pa.string()), ("ann_id", pa.int64()), ("ref_id", pa.int64()),
     ("image_id", pa.int64()), ("split", pa.string()), ("sentences", SENTENCES), ("category_id", pa.int64()),
     ("raw_anns", pa.string()), ("raw_image_info", pa.string()), ("raw_sentences", pa.string()),
     ("image_path", pa.string()), ("bbox", pa.list_(pa.float64())), ("captions", pa.list_(pa.string())),
     ("global_image_id", pa.string()), ("anns_id", pa.string())]
)  # fmt: skip
LMMS = pa.schema(
    [("question_id", pa.string()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
     ("question", pa.string()), ("answer", pa.list_(pa.string())), ("segmentation", pa.list_(pa.float32())),
     ("bbox", pa.list_(pa.float32())), ("iscrowd", pa.int8()), ("file_name", pa.string())]
)  # fmt: skip
NAME = "COCO_train2014_000000000{}.jpg"


def jxu124_row(number: int, split: str = "train", **changes: Any) -> dict[str, Any]:
    image_id, ann_id = 100 + number, 500 + number
    raw = {"id": ann_id, "image_id": image_id, "category_id": 17, "bbox": [2, 2, 18, 12], "iscrowd": 0, "area": 108.0}
    info = {"id": image_id, "file_name": NAME.format(image_id), "width": 32, "height": 24, "license": 3}
    sentences = [
        {"raw": f"Cat {number}!", "sent": f"cat {number}", "sent_id": 10 * number, "tokens": ["cat", str(number)]}
    ]
    row = {
        "sent_ids": [10 * number], "file_name": f"COCO_train2014_000000000{image_id}_{number}.jpg", "ann_id": ann_id,
        "ref_id": number, "image_id": image_id, "split": split, "sentences": sentences, "category_id": 17,
        "raw_anns": json.dumps({**raw, "segmentation": TRIANGLE}), "raw_image_info": json.dumps(info),
        "raw_sentences": json.dumps(sentences), "image_path": "coco/train2014/" + NAME.format(image_id),
        "bbox": [2.0, 2.0, 20.0, 14.0], "captions": [f"cat {number}"], "global_image_id": "x", "anns_id": "x",
    }  # fmt: skip
    return {**row, **changes}


def write(path: Path, schema: pa.Schema, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
    return path


def test_jxu124_becomes_refcoco(tmp_path: Path) -> None:
    for number in (1, 2):
        draw(tmp_path / "train2014" / NAME.format(100 + number), number)
    files = [
        write(tmp_path / "train-00000-of-00001.parquet", JXU124, jxu124_row(1)),
        write(tmp_path / "test-00000-of-00001.parquet", JXU124, jxu124_row(2, "testA")),
    ]
    with ReferWriter(tmp_path / "root", "refcoco", "unc") as writer:
        assert import_jxu124(files, tmp_path / "train2014", writer) == []
        writer.write()
    data = ReferDataset.open(tmp_path / "root", "refcoco", "unc")
    assert data.splits == ("train", "testA")
    (example,), skips = data.labeled_examples("testA")
    assert (example.ref_id, example.image_id, example.sent_id, example.expression) == (2, 102, 20, "cat 2")
    assert (example.category, example.width_px, example.height_px) == ("cat", 32, 24)
    assert skips == []
    assert example.image_path.endswith("images/mscoco/images/train2014/COCO_train2014_000000000102.jpg")
    assert Path(example.image_path).is_file()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"raw_anns": "{"}, "raw_anns"),
        ({"raw_anns": None}, "raw_anns"),
        ({"raw_anns": '{"id": 9, "image_id": 102}'}, "raw_anns"),
        ({"raw_image_info": "[]"}, "raw_image_info"),
        ({"raw_image_info": '{"id": 7}'}, "raw_image_info"),
        ({"raw_image_info": '{"id": 102, "file_name": "../x", "width": 32, "height": 24}'}, "image"),
        ({"raw_image_info": '{"id": 102, "file_name": "x", "width": -1, "height": 24}'}, "image size"),
        ({"sentences": []}, "sentences"),
        ({"split": "validation"}, "split"),
        ({"ref_id": 1}, "ref_id"),
    ],
)
def test_a_bad_row_is_left_out_by_name(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    path = write(tmp_path / "train.parquet", JXU124, jxu124_row(1), jxu124_row(2, **changes))
    with ReferWriter(tmp_path / "root", "refcoco", "unc") as writer:
        problems = import_jxu124([path], None, writer)
        assert [(p.where, p.what) for p in problems] == [("train.parquet row 1", what)]
        kept = [(ref["ref_id"], "ann_id" in ref) for ref in writer.refs]
        assert kept == ([(1, True), (2, False)] if what == "raw_anns" else [(1, True)]), "a bad mask leaves its item"


def test_an_empty_sentence_among_others_is_kept_for_the_loader_to_name(tmp_path: Path) -> None:
    sentences = [
        {"raw": "x", "sent": "", "sent_id": 1, "tokens": []},
        {"raw": "x", "sent": "x", "sent_id": 2, "tokens": []},
    ]
    path = write(tmp_path / "train.parquet", JXU124, jxu124_row(1, sentences=sentences))
    with ReferWriter(tmp_path / "root", "refcoco", "unc") as writer:
        assert import_jxu124([path], None, writer) == []
        writer.write()
    examples, skips = ReferDataset.open(tmp_path / "root", "refcoco", "unc").examples("train")
    assert [e.expression for e in examples] == ["x"]
    assert [skip.kind for skip in skips] == ["empty_expression"]


def lmms_row(number: int, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    content = draw(tmp_path / f"{number}.png", number).read_bytes()
    row = {
        "question_id": str(number), "image": {"bytes": content, "path": None}, "question": "Describe it.",
        "answer": [f"cat {number}", "left cat"], "segmentation": TRIANGLE[0], "bbox": [2.0, 2.0, 18.0, 12.0],
        "iscrowd": 0, "file_name": f"COCO_train2014_000000000{100 + number}_3.jpg",
    }  # fmt: skip
    return {**row, **changes}


def lmms(
    tmp_path: Path, *rows: dict[str, Any], name: str = "val-00000-of-00004.parquet"
) -> tuple[list[Problem], list[str]]:
    path = write(tmp_path / name, LMMS, *rows)
    with ReferWriter(tmp_path / "root", "lmms-refcoco", "lmms") as writer:
        problems = import_lmms([path], writer)
        writer.write()
    return problems, [notice.text for notice in writer.notices]


def test_lmms_rows_hold_pictures_and_all_expressions_of_an_object(tmp_path: Path) -> None:
    again = lmms_row(1, tmp_path, answer=["other"])
    problems, notices = lmms(tmp_path, lmms_row(1, tmp_path), again, lmms_row(2, tmp_path, file_name="own.jpg"))
    assert problems == []
    assert notices == ["there is no train split in these files: one can evaluate on this data set, not train on it"]
    examples, skips = ReferDataset.open(tmp_path / "root", "lmms-refcoco", "lmms").labeled_examples("val")
    assert [e.expression for e in examples] == ["cat 1", "left cat", "other", "cat 2", "left cat"]
    assert [e.image_id for e in examples] == [101, 101, 101, 10**9 + 1, 10**9 + 1]
    assert skips == []
    assert all(Path(e.image_path).is_file() for e in examples)


def test_the_same_file_again_adds_nothing_also_where_a_question_is_repeated(tmp_path: Path) -> None:
    rows = [lmms_row(1, tmp_path), lmms_row(1, tmp_path, answer=["other"], segmentation=[4, 4, 9, 4, 9, 9])]
    lmms(tmp_path, *rows)
    with ReferWriter(tmp_path / "root", "lmms-refcoco", "lmms", update=True) as writer:
        import_lmms([tmp_path / "val-00000-of-00004.parquet"], writer)
        assert merge(writer).num_changes == 0
        assert [[s["sent"] for s in ref["sentences"]] for ref in writer.refs] == [["cat 1", "left cat"], ["other"]]


def test_turned_pictures_inside_parquet_are_taken_as_stored_and_named(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(draw(tmp_path / "plain.png", 1)) as picture:
        picture.save(tmp_path / "turned.png", exif=exif)
    content = (tmp_path / "turned.png").read_bytes()
    path = write(tmp_path / "val-0.parquet", LMMS, lmms_row(1, tmp_path, image={"bytes": content, "path": None}))
    with ReferWriter(tmp_path / "root", "lmms-refcoco", "lmms") as writer:
        assert import_lmms([path], writer) == []
        assert [(row["width"], row["height"]) for row in writer.images.values()] == [(32, 24)]
        (notice, _) = writer.notices
    assert notice.where.startswith("COCO_train2014")
    assert notice.text == "viewers turn it as EXIF says; pixels and masks are taken as stored"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"answer": []}, "answer"),
        ({"answer": [""]}, "expression"),
        ({"segmentation": [1.0, 1.0]}, "polygon"),
        ({"segmentation": [1.0, float("nan"), 2.0, 2.0, 3.0, 3.0]}, "segmentation"),
        ({"segmentation": None}, "segmentation"),
        ({"bbox": [1.0, 1.0, -2.0, 2.0]}, "bbox"),
        ({"image": {"bytes": b"torn", "path": None}}, "unreadable image"),
        ({"image": None}, "image"),
        ({"file_name": "../x.jpg"}, "file_name"),
        ({"file_name": None}, "file_name"),
    ],
)
def test_a_bad_lmms_row_is_left_out_by_name(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    problems, _ = lmms(tmp_path, lmms_row(1, tmp_path), lmms_row(2, tmp_path, **changes))
    assert [(p.where, p.what) for p in problems] == [("val-00000-of-00004.parquet row 1", what)]
    stays = what in ("polygon", "segmentation", "bbox")
    data = ReferDataset.open(tmp_path / "root", "lmms-refcoco", "lmms")
    assert [ref.image_id for ref in data.refs()] == ([101, 102] if stays else [101]), "a bad mask leaves its item"
    assert len(data.labeled_examples("val")[0]) == 2


def test_masks_that_end_inside_their_box_are_counted(tmp_path: Path) -> None:
    _, notices = lmms(tmp_path, lmms_row(1, tmp_path, bbox=[2.0, 2.0, 28.0, 12.0]), lmms_row(2, tmp_path))
    assert any(notice.startswith("1 of 2 masks end well inside their box") for notice in notices)


def test_joined_splits_are_told() -> None:
    (first, *_) = lmms_notices({"val": 8811}, 0, 8811)
    assert "val has 8811 rows: as many as the UNC split's 3811 and Google's 5000 together" in first
    (first, *_) = lmms_notices({"val": 7573}, 0, 7573)
    assert "the UMD split's 2573 and" in first
    assert any("neither testA nor testB" in notice for notice in lmms_notices({"test": 5000}, 0, 5000))


def test_files_of_another_form_or_name(tmp_path: Path) -> None:
    path = write(tmp_path / "val-0.parquet", LMMS, lmms_row(1, tmp_path))
    with ReferWriter(tmp_path / "root", "x", "y") as writer:
        with pytest.raises(DataError, match=r"lacks the columns \['ann_id', 'image_id', .*another data set's file"):
            import_jxu124([path], None, writer)
        with pytest.raises(DataError, match="rows.parquet does not begin with a split"):
            import_lmms([path.rename(tmp_path / "rows.parquet")], writer)


def test_there_are_80_categories() -> None:
    assert len(COCO_CATEGORIES) == 80
    assert (
        COCO_CATEGORIES[1] == "person" and COCO_CATEGORIES[64] == "potted plant" and COCO_CATEGORIES[90] == "toothbrush"
    )


def test_the_boxes_of_a_benchmark_are_never_hints(tmp_path: Path) -> None:
    bare = json.loads(jxu124_row(2)["raw_anns"]) | {"segmentation": [], "hint": {"box": [2, 2, 18, 12]}}
    row = jxu124_row(2, raw_anns=json.dumps(bare))
    path = write(tmp_path / "train-00000-of-00001.parquet", JXU124, jxu124_row(1), row)
    with ReferWriter(tmp_path / "root", "refcoco", "unc") as writer:
        assert import_jxu124([path], None, writer) == []
        writer.write()
    lmms(tmp_path, lmms_row(1, tmp_path))
    for name, split_by, split in (("refcoco", "unc", "train"), ("lmms-refcoco", "lmms", "val")):
        examples, _ = ReferDataset.open(tmp_path / "root", name, split_by).examples(split)
        assert examples and {example.hint for example in examples} == {None}


def test_published_data_stay_so_under_any_name_and_with_more_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (101, 102, 103):
        draw(tmp_path / "photos" / NAME.format(number), number)
    hub = write(tmp_path / "train.parquet", JXU124, jxu124_row(1), jxu124_row(2, "test"))
    rows = tmp_path / "own.jsonl"
    rows.write_text(json.dumps({"image": NAME.format(103), "expression": "dog"}))

    def bring(kind: str, source: Path, dataset: str, *more: str) -> ReferDataset:
        words = [kind, str(source), "--images", str(tmp_path / "photos"), "--root", str(tmp_path), "--dataset", dataset]
        assert cli.main(["data", "import", *words, *more]) == 0
        split_by = capsys.readouterr().out.split()[-1]
        return ReferDataset.open(tmp_path, dataset, split_by)

    first = bring("jxu124", hub, "hub")
    assert (first.is_benchmark, first.split_by, first.missing_splits) == (True, "umd", ("val",))
    assert bring("rows", rows, "hub", "--update").is_benchmark
    assert not bring("rows", rows, "mixed").is_benchmark
    assert bring("jxu124", hub, "mixed", "--update").is_benchmark
