import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from l2l_ray.report.panels import (
    ACCEPTED,
    ExamplePanel,
    accepted_codes,
    example_sheet,
    is_failure,
    score_text,
    tiles,
    worst_first,
    write_examples,
)
from l2l_ray.report.record import read_run
from l2l_ray.types import Candidate


def example(**changes: Any) -> ExamplePanel:
    rng = np.random.default_rng(0)
    square = np.zeros((4, 4), np.float32)
    square[1:3, 1:3] = 1
    image = rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)
    whole = ExamplePanel(
        sent_id=7, expression="left man", split="val", iou=0.8, image=image,
        prior_box_xyxy_frac=(0.25, 0.25, 0.75, 0.75), prior_score=0.9, proposal=square, teacher=square * 0.5,
        accepted=np.arange(16, dtype=np.uint8).reshape(4, 4) % 5, final=square, truth=square,
    )  # fmt: skip
    return replace(whole, **changes)


def test_accepted_codes_by_hand() -> None:
    target = np.array([[True, True, False, False]])
    accepted = np.array([[False, True, True, False]])
    for source in Candidate:
        label, other = (3, 4) if source == Candidate.PRIOR else (1, 2)
        assert accepted_codes(source, target, accepted).tolist() == [[0, label, other, 0]]


def test_maps_come_back_from_disk(tmp_path: Path) -> None:
    write_examples(tmp_path, [example()])
    (entry,) = read_run(tmp_path).panels
    assert (entry["sent_id"], entry["iou"], entry["prior_box_xyxy_frac"]) == (7, 0.8, [0.25, 0.25, 0.75, 0.75])
    folder = tmp_path / "panels"
    with Image.open(folder / entry["accepted"]) as codes:
        assert codes.mode == "P" and np.array_equal(np.asarray(codes), np.arange(16).reshape(4, 4) % 5)
    with Image.open(folder / entry["teacher"]) as teacher:
        assert teacher.mode == "L" and np.asarray(teacher)[1, 1] == 128 and np.asarray(teacher)[0, 0] == 0
    with Image.open(folder / entry["image"]) as image:
        assert image.size == (64, 48)


def test_big_images_are_stored_small(tmp_path: Path) -> None:
    write_examples(tmp_path, [example(image=np.zeros((480, 640, 3), np.uint8))])
    with Image.open(tmp_path / "panels" / "000_image.png") as image:
        assert image.size == (320, 240)


def test_writing_again_leaves_no_stale_pictures(tmp_path: Path) -> None:
    write_examples(tmp_path, [example(), example(sent_id=8)])
    folder = write_examples(tmp_path, [example(truth=None)])
    names = sorted(path.name for path in folder.iterdir())
    kept = ("image", "proposal", "teacher", "accepted", "final")
    assert names == sorted(["index.json", *(f"000_{name}.png" for name in kept)])


def test_tiles_share_one_size_and_absent_maps_are_none(tmp_path: Path) -> None:
    write_examples(tmp_path, [example(truth=None, accepted=None, prior_box_xyxy_frac=None)])
    shown = tiles(tmp_path, read_run(tmp_path).panels[0], width_px=80)
    assert [tile is None for tile in shown] == [False, False, False, False, True, False, True]
    assert {tile.size for tile in shown if tile} == {(80, 60)}


def test_accepted_tile_shows_its_colours_in_place(tmp_path: Path) -> None:
    codes = np.zeros((4, 4), np.uint8)
    codes[0, 3] = ACCEPTED.index("teacher: object")
    codes[3, 0] = ACCEPTED.index("language model: object")
    write_examples(tmp_path, [example(image=np.full((64, 64, 3), 128, np.uint8), accepted=codes)])
    tile = tiles(tmp_path, read_run(tmp_path).panels[0], width_px=64)[4]
    assert tile is not None
    pixels = np.asarray(tile).astype(int)
    assert pixels[8, 56, 2] > pixels[8, 56, 0] + 60  # upper right: blue
    assert pixels[56, 8, 0] > pixels[56, 8, 2] + 60  # lower left: orange
    assert np.ptp(pixels[8, 8]) < 15  # not accepted: gray


def test_the_mask_tile_keeps_the_inside_and_dims_the_outside(tmp_path: Path) -> None:
    write_examples(tmp_path, [example(image=np.full((64, 64, 3), (200, 40, 40), np.uint8))])
    tile = tiles(tmp_path, read_run(tmp_path).panels[0], width_px=64)[6]
    assert tile is not None
    pixels = np.asarray(tile)
    assert pixels[32, 32].tolist() == [200, 40, 40]
    assert np.ptp(pixels[2, 2].astype(int)) == 0


@pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "missing.png", "broken.png", 7, None])
def test_unusable_pictures_count_as_absent(tmp_path: Path, name: Any) -> None:
    write_examples(tmp_path, [example()])
    Image.new("L", (4, 4)).save(tmp_path / "outside.png")
    (tmp_path / "panels" / "broken.png").write_bytes(b"\x89PNG nothing")
    entry = {**read_run(tmp_path).panels[0], "truth": name, "accepted": name}
    shown = tiles(tmp_path, entry)
    assert shown[4] is None and shown[6] is None and shown[0] is not None


def test_a_users_box_is_called_so(tmp_path: Path) -> None:
    write_examples(tmp_path, [example(prior_score=1.0), example(prior_score=1.0, prior_source="user")])
    score, yours = (tiles(tmp_path, entry)[1] for entry in read_run(tmp_path).panels)
    assert score is not None and yours is not None
    differs = np.abs(np.asarray(score, int) - np.asarray(yours, int)).sum(axis=2) > 0
    assert differs[:24].any() and not differs[24:].any()  # the tag alone


def test_an_entry_of_rubbish_still_gives_tiles(tmp_path: Path) -> None:
    shown = tiles(tmp_path, {"prior_box_xyxy_frac": ["a", 1, 2, 3], "prior_score": "high"})
    assert shown[0] is None and shown[1] is not None
    box = {"prior_box_xyxy_frac": [0.9, -3.0, 0.1, 9.0], "prior_score": 0.5}  # swapped and outside
    assert tiles(tmp_path, box)[1] is not None


def test_a_photo_that_is_gone_leaves_its_maps(tmp_path: Path) -> None:
    write_examples(tmp_path, [example(image=None)])
    (entry,) = read_run(tmp_path).panels
    shown = tiles(tmp_path, entry)
    assert entry["image"] is None and shown[0] is None and shown[5] is not None


def test_a_mask_without_truth_has_its_confidence_for_a_score() -> None:
    assert score_text({"iou": 0.5, "confidence": 0.9}) == "IoU 50.0 %"
    assert score_text({"iou": None, "confidence": 0.9}) == "confidence 90.0 %"
    assert score_text({"iou": "x"}) == "IoU not known"


def test_failures_and_order() -> None:
    entries = [{"iou": 0.9}, {"iou": None}, {"iou": 0.1}, {"iou": 0.5}]
    assert [is_failure(e) for e in entries] == [False, False, True, False]
    assert [e["iou"] for e in worst_first(entries)] == [0.1, 0.5, 0.9, None]


def test_the_sheet_holds_a_row_per_example(tmp_path: Path) -> None:
    write_examples(tmp_path, [example(), example(iou=0.1, expression="word " * 60, truth=None)])
    entries = read_run(tmp_path).panels
    sheet = example_sheet(tmp_path, entries, tile_px=64)
    assert sheet.size == (176 + 7 * 72 + 8, 30 + 2 * 48 + 8 * 3 + 22)
    assert example_sheet(tmp_path, []).height > 0


def test_an_index_is_json_a_person_can_read(tmp_path: Path) -> None:
    folder = write_examples(tmp_path, [example(iou=None)])
    (entry,) = json.loads((folder / "index.json").read_text())
    assert entry["iou"] is None and entry["proposal"] == "000_proposal.png"
