"""Damaged files of every kind that importers and `predict` read: a status and clear lines, no traceback, no stray file.

Each file starts as a whole one, made here; bytes are flipped, cut, doubled and thrown in, and values of the parsed
forms are replaced by awkward ones. What is asserted: the exit status is one that the help names, an error is one line,
and nothing outside the data root has changed.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from l2l_ray import cli
from l2l_ray.datatools.label_studio import task
from l2l_ray.files import replacing
from l2l_ray.loop.state.run_folder import RunFolder
from tests.refer_folder import draw

NUM_MUTANTS = 30  # of each file
AWKWARD: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, float("inf"), float("nan"), 10**30, 2**31, "", " ", "None", "\x00", "\ud800", "é" * 300,
    "../../secret.png", "/etc/passwd", "CON", [], {}, [[]], [[[1]]], [1, 2], ["a"], {"size": [1, 1]}, "[1,", "{}",
    {"size": [24, 32], "counts": "x"}, [0] * 7, "<|image_pad|>", -1e-320,
)  # fmt: skip
POLYGON = [2, 2, 20, 2, 20, 14, 2, 14]

Writer = Callable[[Path], Path]


def _mask() -> np.ndarray:
    mask = np.zeros((24, 32), bool)
    mask[4:14, 6:20] = True
    return mask


def _rows() -> list[dict[str, Any]]:
    return [
        {"image": "a.png", "expression": "left cat", "polygon": POLYGON, "split": "train", "id": "1"},
        {"image": "b.jpg", "expression": ["cat", "the small cat"], "box": [2, 2, 10, 10], "category": "cat"},
        {"image": "a.png", "expression": "no cat", "no_target": True, "provenance": {"by": "me"}},
        {"image": "b.jpg", "expression": "cat again", "mask": "m.png"},
    ]


def _jsonl(folder: Path) -> Path:
    path = folder / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, _rows())))
    return path


def _csv(folder: Path) -> Path:
    path = folder / "own.csv"
    rows = [{k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()} for row in _rows()]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def _parquet(folder: Path) -> Path:
    path = folder / "own.parquet"
    pd.DataFrame([{"image": "a.png", "expression": "left cat", "polygon": POLYGON, "id": "1"}] * 3).to_parquet(path)
    return path


def _coco(folder: Path) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 24}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 18, 12], "area": 216, "iscrowd": 0,
             "segmentation": [POLYGON], "expression": "left cat"},
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }  # fmt: skip
    path = folder / "own.json"
    path.write_text(json.dumps(content))
    return path


def _label_studio(folder: Path) -> Path:
    item = task(
        _mask(),
        {
            "image": "a.png",
            "expression": "left cat",
            "sent_id": 7,
            "confidence": 0.5,
            "split": "train",
            "provenance": {"run": "x"},
        },
    )
    item["annotations"] = [{"id": 1, "result": item.pop("predictions")[0]["result"]}]
    path = folder / "project.json"
    path.write_text(json.dumps([item]))
    return path


SOURCES: dict[str, Writer] = {
    "rows jsonl": _jsonl, "rows csv": _csv, "rows parquet": _parquet, "coco": _coco, "labelstudio": _label_studio,
}  # fmt: skip


def _damaged(content: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one to three of: a flip, a cut, a double, zeros, noise."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(damaged) + 1), rng.randint(1, 40)
        change = rng.choice(("flip", "cut", "double", "zeros", "noise", "end"))
        if change == "flip" and at < len(damaged):
            damaged[at] ^= 1 << rng.randrange(8)
        elif change == "cut":
            del damaged[at : at + length]
        elif change == "double":
            damaged[at:at] = damaged[at : at + length]
        elif change == "zeros":
            damaged[at : at + length] = bytes(length)
        elif change == "noise":
            damaged[at:at] = rng.randbytes(length)
        else:
            del damaged[at:]
    return bytes(damaged)


def _altered(value: Any, rng: random.Random) -> Any:
    """Return parsed JSON with one value, key or element replaced, removed or doubled."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items: Iterator[tuple[Any, Any]] = iter(())
        if isinstance(node, dict):
            items = iter(node.items())
        elif isinstance(node, list):
            items = iter(enumerate(node[:40]))
        for key, child in items:
            places.append((node, key))
            walk(child)

    holder = [json.loads(json.dumps(value))]
    walk(holder)
    node, key = rng.choice(places)
    change = rng.choice(("replace", "replace", "remove", "rename", "double"))
    if change == "replace" or node is holder:
        node[key] = rng.choice(AWKWARD)
    elif change == "remove":
        del node[key]
    elif change == "rename" and isinstance(node, dict):
        node[f" {key}"] = node.pop(key)
    elif isinstance(node, list):
        node.insert(key, node[key])
    return holder[0]


def _state(folder: Path, but: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_relative_to(but))
    return {str(path): path.read_bytes() for path in files}


class _Place:
    """A folder with two pictures and a mask, and a secret beside it that nothing may touch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.photos = folder, folder / "photos"
        self.photos.mkdir()
        (folder / "secret.png").write_bytes(b"not to be read")
        draw(self.photos / "a.png", 1)
        draw(self.photos / "b.jpg", 2)
        Image.fromarray(_mask()).save(self.photos / "m.png")
        self.root = folder / "root"

    def runs_clean(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> int:
        """Run a command; its status, after checking what it printed and left."""
        before = _state(self.folder, self.root)
        status = cli.main(words)
        printed = capsys.readouterr()
        assert status in (0, 1), printed
        assert "Traceback" not in printed.out + printed.err
        assert printed.err.count("\n") <= 1 or "note" in printed.err, printed.err
        if status == 1:
            assert (printed.out + printed.err).strip(), "a failure in silence"
        assert _state(self.folder, self.root) == before
        shutil.rmtree(self.root, ignore_errors=True)
        return status


@pytest.fixture
def place(tmp_path: Path) -> _Place:
    return _Place(tmp_path)


def _import_words(kind: str, source: Path, place: _Place) -> list[str]:
    images = ["--images", str(place.photos)] if kind != "folder" else []
    return ["data", "import", kind.split()[0], str(source), *images, "--root", str(place.root), "--dataset", "own"]


@pytest.mark.parametrize("kind", SOURCES)
def test_a_whole_file_is_imported(kind: str, place: _Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.runs_clean(_import_words(kind, SOURCES[kind](place.photos), place), capsys) == 0


@pytest.mark.parametrize("kind", SOURCES)
def test_damaged_bytes(kind: str, place: _Place, capsys: pytest.CaptureFixture[str]) -> None:
    source = SOURCES[kind](place.photos)
    whole, rng = source.read_bytes(), random.Random(f"bytes {kind}")
    for _ in range(NUM_MUTANTS):
        source.write_bytes(_damaged(whole, rng))
        place.runs_clean(_import_words(kind, source, place), capsys)


@pytest.mark.parametrize("kind", ["rows jsonl", "coco", "labelstudio"])
def test_awkward_values(kind: str, place: _Place, capsys: pytest.CaptureFixture[str]) -> None:
    source = SOURCES[kind](place.photos)
    whole, rng = source.read_text(), random.Random(f"values {kind}")
    statuses = set()
    for _ in range(2 * NUM_MUTANTS):
        if kind == "rows jsonl":
            rows = [json.loads(line) for line in whole.splitlines()]
            rows[rng.randrange(len(rows))] = _altered(rows[rng.randrange(len(rows))], rng)
            source.write_text("\n".join(map(json.dumps, rows)))
        else:
            source.write_text(json.dumps(_altered(json.loads(whole), rng)))
        statuses.add(place.runs_clean(_import_words(kind, source, place), capsys))
    assert statuses == {0, 1}


@pytest.mark.parametrize("name", ["a.png", "b.jpg", "m.png"])
def test_damaged_pictures_and_masks(name: str, place: _Place, capsys: pytest.CaptureFixture[str]) -> None:
    source, path, rng = _jsonl(place.photos), place.photos / name, random.Random(f"picture {name}")
    whole = path.read_bytes()
    for _ in range(NUM_MUTANTS):
        path.write_bytes(_damaged(whole, rng))
        place.runs_clean(_import_words("rows", source, place), capsys)


def test_a_folder_of_noise(place: _Place, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random("folder")
    for number in range(NUM_MUTANTS):
        name = rng.choice(
            ["x.txt", "x.png", "x.jpg", "x_mask.png", "a.txt", "a_mask.png", "b.txt", "b.png", "val", "é .jpg"]
        )
        path = place.photos / name
        path.write_bytes(rng.randbytes(rng.randint(0, 60)) if number % 3 else "left cat\n".encode("utf-16"))
        place.runs_clean(_import_words("folder", place.photos, place), capsys)


def test_predict_on_damaged_pictures(whole_run: RunFolder, place: _Place, capsys: pytest.CaptureFixture[str]) -> None:
    path, rng = place.photos / "b.jpg", random.Random("predict")
    whole = path.read_bytes()
    statuses = set()
    for _ in range(NUM_MUTANTS // 6):
        with replacing(path) as temporary:
            temporary.write_bytes(_damaged(whole, rng))
        words = ["predict", str(path), "left cat", "--run", str(whole_run.path), "--out", str(place.root)]
        statuses.add(place.runs_clean(words, capsys))
    assert statuses == {0, 1}
