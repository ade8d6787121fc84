"""Whatever the record of a mask holds, every format writes it and the importers read it back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from l2l_ray import cli
from l2l_ray.data.layout import SPLITS
from l2l_ray.data.masks import annotation_rle, encode
from l2l_ray.data.plain_pickle import plain_records
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.columns import COLUMNS
from l2l_ray.datatools.export import FORMATS, write_export
from l2l_ray.datatools.record import RECORD, ExportedMask, record
from l2l_ray.types import Example, Rle
from tests.refer_folder import draw

HEIGHT, WIDTH = 24, 32
PHOTOS = ("a.png", "b.png", "sub/a.png")  # two of one name
FILES: dict[str, Callable[[Path], list[str]]] = {
    "jsonl": lambda folder: ["rows", str(folder / "masks.jsonl")],
    "parquet": lambda folder: ["rows", str(folder / "masks.parquet")],
    "hf": lambda folder: ["rows", *map(str, sorted((folder / "data").glob("*.parquet")))],
    "png": lambda folder: ["rows", str(folder / "index.jsonl"), "--masks", str(folder)],
    "yolo": lambda folder: ["rows", str(folder / "index.jsonl")],
    "coco": lambda folder: ["coco", str(folder / "annotations.json")],
    "labelstudio": lambda folder: ["labelstudio", str(_accepted(folder))],
}


def _accepted(folder: Path) -> Path:
    """Return the project's export after somebody accepted every mask as it was."""
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks):
        task["annotations"] = [{"id": number, "completed_by": 3, "result": task["predictions"][0]["result"]}]
    path = folder.parent / "project.json"
    path.write_text(json.dumps(tasks))
    return path


def _holes_and_parts() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:12, 3:13] = True
    mask[5:8, 6:9] = False
    mask[20:, 25:] = mask[0, 31] = True
    return mask


EMPTY = np.zeros((HEIGHT, WIDTH), bool)
shares = st.floats(0, 1)
masks = st.one_of(
    st.sampled_from([EMPTY, ~EMPTY, _holes_and_parts()]), arrays(bool, (HEIGHT, WIDTH), elements=st.booleans())
)
words = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
NO_TEXTS = {"nan", "NaN", "None", "null", "NULL", "<NA>", "NaT"}  # how programs write that there is none: refused
texts = st.lists(words, min_size=1, max_size=4).map(" ".join).filter(lambda text: text not in NO_TEXTS)
provenances = st.dictionaries(words, words | st.integers(-(2**53), 2**53) | st.floats(0, 1), max_size=3).map(
    lambda made: {**made, "source": "prediction"}
)


@st.composite
def exported(draw_value: Callable[..., Any]) -> list[ExportedMask]:
    """A few masks of the photos: several of one object, with and without all that may be missing."""
    found = []
    splits = [draw_value(st.sampled_from(SPLITS)) for _ in PHOTOS]
    for sent_id in range(draw_value(st.integers(1, 5))):
        photo = draw_value(st.sampled_from(range(len(PHOTOS))))
        example = Example(
            sent_id, draw_value(st.integers(0, 2)), photo + 1, PHOTOS[photo], WIDTH, HEIGHT, draw_value(texts)
        )
        is_label = draw_value(st.booleans())
        mask, accepted = encode(draw_value(masks)), encode(draw_value(masks)) if is_label else None
        gate, category = (
            draw_value(shares) if is_label else None,
            draw_value(st.sampled_from(["", "cat", "große Katze"])),
        )
        scores = (accepted, draw_value(shares), gate, draw_value(provenances))
        found.append(ExportedMask(example, mask, *scores, splits[photo], category))
    return found


def _come_back(folder: Path, dataset: str) -> list[dict[str, Any]]:
    """Return what a data set holds as records; a mask of no target is empty, that of an unlabeled item None."""
    instances = json.loads((folder / dataset / "instances.json").read_text())
    annotations = {row["id"]: row for row in instances["annotations"]}
    names = {row["id"]: row["name"] for row in instances["categories"]}
    photos = {row["id"]: (folder / "images" / dataset / row["file_name"]).resolve() for row in instances["images"]}
    rows = []
    for ref in plain_records(folder / dataset / "refs(own).p"):
        rle: Rle | None = encode(EMPTY) if ref.get("ann_ids") == [] else None
        if "ann_id" in ref:
            rle = annotation_rle(annotations[ref["ann_id"]]["segmentation"], HEIGHT, WIDTH)
        (sentence,) = ref["sentences"]
        own = {"image": photos[ref["image_id"]], "expression": sentence["raw"], "rle": rle, "id": ref["source_id"]}
        rows.append(
            {
                **{name: ref.get(name) for name in RECORD},
                **own,
                "category": names.get(ref.get("category_id", 0), ""),
            }
        )
    return sorted(rows, key=lambda row: row["sent_id"])


def _round_trip(given_masks: list[ExportedMask], kind: str, root: Path) -> tuple[list[dict[str, Any]], list[Any]]:
    """Export, import by the command, and return the records expected and those that came back."""
    photos = root / "photos"
    made = []
    for mask in given_masks:
        path = photos / mask.example.image_path
        if not path.exists():
            draw(path, mask.example.image_id, (WIDTH, HEIGHT))
        values = {name: getattr(mask.example, name) for name in Example.__dataclass_fields__}
        example = Example(**{**values, "image_path": str(path)})
        fields = {name: getattr(mask, name) for name in ExportedMask.__dataclass_fields__}
        made.append(ExportedMask(**{**fields, "example": example}))
    folder = write_export(made, kind, root / "out", {})
    images = json.loads((folder / "export.json").read_text())["image_root"]
    cli.main(
        ["data", "import", *FILES[kind](folder), "--images", images, "--root", str(root / "data"), "--dataset", "d"]
    )
    expected = []
    for mask in made:
        row = record(mask, photos)
        row["image"] = Path(mask.example.image_path).resolve()
        if row["rle"] == encode(EMPTY) and kind != "labelstudio":
            row["rle"] = None  # a model's empty mask says nothing: the item is there, unlabeled
        expected.append(row)
    return expected, _come_back(root / "data", "d")


def test_every_field_of_the_record_is_a_column_of_own_data() -> None:
    assert set(RECORD) <= set(COLUMNS) and set(FILES) == set(FORMATS)


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some=exported())
def test_every_record_comes_back(tmp_path_factory: pytest.TempPathFactory, kind: str, some: list[ExportedMask]) -> None:
    if kind == "yolo" and all(mask.rle == encode(EMPTY) for mask in some):
        return  # refused: YOLO has nothing to learn there
    expected, found = _round_trip(some, kind, tmp_path_factory.mktemp(kind))
    if kind == "labelstudio":
        for before, after in zip(expected, found, strict=True):
            made = after["provenance"]
            assert (made["source"], made["corrected_from"]) == ("label_studio", before["provenance"])
            after["provenance"] = made["corrected_from"]
    assert found == expected


@pytest.mark.parametrize("kind", FORMATS)
def test_awkward_texts_and_masks_come_back(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = []
    for number, (text, mask) in enumerate(
        [
            ("der \"große\" Hund, 'links'; oben", _holes_and_parts()),
            ("左边的 🐈 \\n {x: 1} [1, 2] <|image_pad|> null", ~EMPTY),
            ("nothing of it", EMPTY),
        ]
    ):
        example = Example(7 + number, 1, 1 + number % 2, PHOTOS[2 * (number % 2)], WIDTH, HEIGHT, text)
        made.append(ExportedMask(example, encode(mask), encode(EMPTY), 0.25, 0.0, {"source": "prediction"}, "testA"))
    expected, found = _round_trip(made, kind, tmp_path)
    assert [row["expression"] for row in found] == [row["expression"] for row in expected]
    assert [row["rle"] for row in found] == [row["rle"] for row in expected]
    assert {(row["split"], row["gate"]) for row in found} == {("testA", 0.0)}
    assert all(row["accepted_rle"] == encode(EMPTY) for row in found), "accepted nowhere is not: never asked"
    empty_is_named = "a model's mask without a pixel says nothing" in capsys.readouterr().out
    assert empty_is_named == (kind != "labelstudio")
    with_truth, _ = ReferDataset.open(tmp_path / "data", "d", "own").labeled_examples("testA")
    assert len(with_truth) == 2 + (kind == "labelstudio")
