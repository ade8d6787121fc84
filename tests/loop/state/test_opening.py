"""What a run starts with, in words."""

from __future__ import annotations

from pathlib import Path

from l2l_ray.config import RunConfig
from l2l_ray.loop.state.opening import opening_text
from l2l_ray.loop.state.prepare import RunData, prepare
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.types import Skip
from tests.loop.partly_labeled import BAD_MASK, config_of, set_mask, write_partly
from tests.whole_run import changed


def _told(config: RunConfig) -> list[str]:
    run = RunFolder.open(config)
    data = prepare(config, run)
    return opening_text(config, data, run.skips()).splitlines()


def test_every_photo_is_accounted_for(smoke: RunConfig, tmp_path: Path) -> None:
    config = config_of(smoke, write_partly(tmp_path / "data", 60, set(range(12)), second={0, 30}))
    lines = _told(config)
    assert lines[:3] == [
        "data       cats (me): 12 labeled (9 to learn from, 3 held out), 48 unlabeled; 0 left out",
        "texts      9 to learn from, 50 unlabeled in 25 shards, val 3",
        "note       1 text of labeled photos without a mask: unlabeled (0.png)",
    ]
    assert lines[3].startswith("note       there is no val split, so the run holds out 3 of its 12 labeled photos")


def test_what_is_left_out_is_said_with_reason_count_and_names(smoke: RunConfig, tmp_path: Path) -> None:
    root = write_partly(tmp_path / "data", 12, {0, 1, 2}, {"val": 2}, second={4})
    pictures = root / "images" / "cats"
    for number in range(4, 9):
        (pictures / f"{number}.png").unlink()
    (pictures / "9.png").write_bytes(b"no picture")
    set_mask(root, 1, BAD_MASK)
    set_mask(root, 12, None)  # of val
    assert _told(config_of(smoke, root)) == [
        "data       cats (me): 2 labeled, 4 unlabeled; 7 left out",
        "texts      2 to learn from, 4 unlabeled in 2 shards, val 1",
        "left out   6 texts: the photo is not there (4.png, 5.png, 6.png, 7.png, 8.png)",
        "left out   1 text: there is no mask to measure against (12.png)",
        "left out   1 text: the photo cannot be read (9.png)",
        "note       1 text: the mask cannot be read; used as an unlabeled photo (1.png)",
        "note       this data set has no testA, testB: left out of the table",
    ]


def test_single_texts_of_a_photo_are_counted_apart(config: RunConfig, sets: RunData) -> None:
    path = sets.unlabeled[0].image_path
    skips = [Skip("empty_expression", 7, path, "ref 3 says nothing"), Skip("odd", 8, "", "image_id 9 is not there")]
    lines = opening_text(config, sets, skips).splitlines()
    assert lines[0].endswith("3 labeled, 3 unlabeled; 1 left out, and 1 text of other photos")
    assert lines[2:4] == [f"left out   1 text: there is no text ({Path(path).name})", "left out   1 text: odd"]


def test_it_says_that_masks_stay_hidden_and_what_uses_them(config: RunConfig, sets: RunData) -> None:
    assert (
        "note       the masks of 3 photos are there but not used for training; leave data.labeled_frac out to use "
        "every mask"
    ) in opening_text(config, sets, []).splitlines()


def test_of_a_benchmark_a_larger_share_uses_all_masks_and_leaving_it_out_does_not(smoke: RunConfig) -> None:
    config = changed(smoke, data={"num_train_refs": 24, "num_eval_refs": 4, "labeled_frac": 0.5})
    (line,) = (line for line in _told(config) if "not used for training" in line)
    assert line.endswith("; --data.labeled_frac 1 uses them all, as this is a benchmark")
