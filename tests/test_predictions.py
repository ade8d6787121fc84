"""Answers as files: the same mask in each, names that never meet, an index of everything, a stop that loses nothing."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from l2l_ray.data.masks import decode
from l2l_ray.errors import DataError
from l2l_ray.predictions import (
    OVERLAY_RGB,
    FailedPrediction,
    Prediction,
    PredictionFolder,
    predict_into,
    result_name,
)
from l2l_ray.types import PhotoText
from tests.finished_run import PRIOR


def prediction(image_path: Path = Path("scene.jpg"), expression: str = "circle") -> Prediction:
    image = np.full((4, 6, 3), 100, np.uint8)
    probs = np.zeros((4, 6), np.float32)
    probs[1:3, 2:5] = 0.75
    probs[0, :2] = 0.25
    return Prediction(PhotoText(image_path, expression), expression, image, probs, PRIOR, "l2l", 2, 0.5)


def test_the_three_files_hold_the_same_mask(tmp_path: Path) -> None:
    one = prediction()
    overlay, mask, figures = one.save(tmp_path / "out")
    name = result_name(one.item)
    assert name.startswith("scene-circle-")
    assert [path.name for path in (overlay, mask, figures)] == [
        f"{name}-overlay.png",
        f"{name}-mask.png",
        f"{name}.json",
    ]
    assert np.array_equal(np.asarray(Image.open(mask)) == 255, one.mask)
    summary = json.loads(figures.read_text())
    assert np.array_equal(decode(summary["mask_rle"]), one.mask)
    assert (summary["area_px"], summary["area_frac"], summary["prior"]["phrase"]) == (6, 0.25, "circle")
    assert summary["confidence"] == 0.5
    tinted = np.asarray(Image.open(overlay))
    assert np.array_equal(tinted[0, 0], [100, 100, 100])
    assert np.array_equal(tinted[1, 2], np.round((100 + np.array(OVERLAY_RGB)) / 2).astype(np.uint8))


def test_photos_of_one_name_and_texts_about_one_photo_are_results_of_their_own() -> None:
    names = {
        result_name(PhotoText(Path(path), text))
        for path, text in (("a/img.png", "dog"), ("b/img.png", "dog"), ("a/img.jpg", "dog"), ("a/img.png", "dogs"))
    }
    assert len(names) == 4
    assert result_name(PhotoText(Path("a/img.png"), " dog ")) == result_name(
        PhotoText(Path("./a/img.png").absolute(), "dog")
    )


def test_another_hint_asks_something_else() -> None:
    hints: list[dict[str, Any] | None] = [None, {"box": [1, 2, 3, 4]}, {"box": [1, 2, 3, 5]}, {"points": [[1, 2]]}]
    assert len({result_name(PhotoText(Path("a.png"), "dog", hint)) for hint in hints}) == len(hints)
    one, other = {"box": [1, 2, 3, 4], "points": [[1, 2]]}, {"points": [[1, 2]], "box": [1, 2, 3, 4]}
    assert result_name(PhotoText(Path("a.png"), "dog", one)) == result_name(PhotoText(Path("a.png"), "dog", other))


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_and_any_name_of_a_photo_give_a_name_that_a_file_can_have(stem: str, text: str) -> None:
    stem = stem.replace("/", "").replace("\0", "")
    name = result_name(PhotoText(Path(f"{stem}x.png"), text))
    assert 8 <= len(name.encode()) <= 140
    assert "/" not in name and name.isprintable() or stem


def test_the_index_names_every_item_once_also_the_failed_ones(tmp_path: Path) -> None:
    one, other = prediction(tmp_path / "a.png"), prediction(tmp_path / "b.png", 'say "b", please')
    gone = PhotoText(tmp_path / "gone.png", "circle")
    with PredictionFolder.open(tmp_path / "out", "runs/mine", "aa") as folder:
        for result in (one, other, one, FailedPrediction(gone, "image gone.png cannot be read")):
            folder.add(result)
    rows = [json.loads(line) for line in folder.index_path.read_text().splitlines()]
    with folder.table_path.open(newline="", encoding="utf-8-sig") as file:
        table = list(csv.DictReader(file))
    assert (
        [row["expression"] for row in rows]
        == [row["expression"] for row in table]
        == ["circle", 'say "b", please', "circle"]
    )
    assert (rows[0]["area_px"], rows[0]["run"], rows[2]["error"]) == (6, "runs/mine", "image gone.png cannot be read")
    assert all((folder.path / row[kind]).exists() for row in rows[:2] for kind in ("mask", "overlay", "details"))


def test_rows_are_put_into_the_order_of_the_items_after_those_of_others(tmp_path: Path) -> None:
    items = [PhotoText(tmp_path / f"{number}.png", "circle") for number in range(20)]
    rows = [{"name": result_name(item), "image": str(item.image_path)} for item in reversed(items)]
    folder = PredictionFolder.open(tmp_path / "out", "runs/mine", "aa")
    folder.index_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with folder:
        folder.arrange([*items[5:], items[9], PhotoText(tmp_path / "new.png", "circle")])
    arranged = [json.loads(line)["image"] for line in folder.index_path.read_text().splitlines()]
    assert arranged == [str(item.image_path) for item in (*reversed(items[:5]), *items[5:])]


def test_what_is_answered_is_known_again_until_photo_run_or_files_change(tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    photo.write_bytes(b"the photo")
    one = prediction(photo)
    with PredictionFolder.open(tmp_path / "out", "mine", "aa") as folder:
        assert not folder.has(one.item, "l2l", 2)
        mask = folder.add(one)
    again = PredictionFolder.open(tmp_path / "out", "mine", "aa")
    assert again.has(one.item, "l2l", 2)
    assert not again.has(one.item, "l2l", 3)
    assert not again.has(PhotoText(photo, "other"), "l2l", 2)
    assert not PredictionFolder.open(tmp_path / "out", "other", "aa").has(one.item, "l2l", 2)
    assert not PredictionFolder.open(tmp_path / "out", "mine", "bb").has(one.item, "l2l", 2), "trained anew"
    photo.write_bytes(b"another photo")
    assert not again.has(one.item, "l2l", 2)
    photo.write_bytes(b"the photo")
    assert mask is not None
    mask.unlink()
    assert not again.has(one.item, "l2l", 2)


def test_a_stopped_folder_keeps_what_it_has_and_an_unused_one_is_not_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), PredictionFolder.open(tmp_path / "out", "mine", "aa") as folder:
        folder.add(prediction())
        raise KeyboardInterrupt
    assert folder.table_path.exists()
    with PredictionFolder.open(tmp_path / "unused", "mine", "aa"):
        pass
    assert not (tmp_path / "unused").exists()


def test_no_index_is_named_where_nothing_was_answered(tmp_path: Path) -> None:
    found, said = ["a.png: missing text", "b.png: missing text"], list[str]()
    folder = PredictionFolder.open(tmp_path / "out", "mine", "aa")
    assert predict_into(folder, found, ("l2l", 1), False, lambda items: 0, said.append) == 1
    assert said == ["0 of 2 answered"] and not (tmp_path / "out").exists()


def test_a_place_that_cannot_hold_results_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notafolder"
    file.write_text("")
    for place in (file, file / "below"):
        with pytest.raises(DataError, match=r"^cannot write .*notafolder.*: .*; give a folder that can be written"):
            PredictionFolder.open(place, "mine", "aa")
        with pytest.raises(DataError, match=r"^cannot write .*notafolder"):
            prediction().save(place)
    (tmp_path / "predictions.jsonl").write_text("[1]\n")
    with pytest.raises(DataError, match=r"predictions\.jsonl is no index of predictions: .*choose another folder"):
        PredictionFolder.open(tmp_path, "mine", "aa")


def test_what_another_process_wrote_meanwhile_stays_in_the_index(tmp_path: Path) -> None:
    one, other = prediction(tmp_path / "a.png"), prediction(tmp_path / "b.png")
    waiting = PredictionFolder.open(tmp_path / "out", "mine", "aa")
    with PredictionFolder.open(tmp_path / "out", "mine", "aa") as first:
        first.add(one)
    with waiting:
        waiting.add(other)
    for path in (waiting.index_path, waiting.table_path):
        text = path.read_text(encoding="utf-8-sig")
        assert result_name(one.item) in text and result_name(other.item) in text


def test_two_processes_do_not_write_into_one_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from l2l_ray.predictions import PredictionFolder\n"
        "with PredictionFolder.open(Path(sys.argv[1]), 'mine', 'aa'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        folder = PredictionFolder.open(tmp_path / "out", "mine", "aa")
        with pytest.raises(DataError, match=r"another process is writing results into .*out; let it end, or choose"):
            folder.__enter__()
        holder.kill()
    with folder:  # the system released what the killed one held
        folder.add(prediction())
    assert len(folder.index_path.read_text().splitlines()) == 1
