"""What an update says of what could not be used: with what becomes of the object, kept until it is corrected."""

from __future__ import annotations

from pathlib import Path

from l2l_ray.data.layout import PROBLEMS_FILE
from tests.own_data import LEFT, RIGHT, Import, own_masks, polygon_rle


def test_a_problem_that_was_corrected_is_not_told_any_more(own: Import, tmp_path: Path) -> None:
    kept = tmp_path / "root" / "own" / PROBLEMS_FILE
    bad = [{"image": "c.png", "expression": text, "polygon": [1, 2]} for text in ("bird", "tree", "nest")]
    assert own([*bad, {"image": "gone.png", "expression": "x"}], "--update")[0] == 1
    assert [line.partition(": got")[0] for line in kept.read_text().splitlines()] == [
        "rows.jsonl line 4: missing image", *(f"rows.jsonl line {n}: polygon" for n in (1, 2, 3))
    ]  # fmt: skip
    kept.write_bytes(kept.read_bytes() + b"\xe9t\xe9.png: missing text\n")
    good = [{"image": "c.png", "expression": "bird", "polygon": LEFT}, {"image": "c.png", "expression": "nest"}]
    assert own(good, "--update")[0] == 0
    assert [line.partition(": got")[0] for line in kept.read_text().splitlines()] == [
        "\\xe9t\\xe9.png: missing text", "rows.jsonl line 2: polygon"
    ], "the table names line 4 no more; the tree, which it does not name either, still has no mask"  # fmt: skip


def test_what_is_wrong_with_a_new_mask_says_that_the_earlier_one_stays(own: Import, tmp_path: Path) -> None:
    kept = tmp_path / "root" / "own" / PROBLEMS_FILE
    row = {"image": "a.png", "expression": "left cat", "id": "cat"}
    bad = [row | {"polygon": [1, 2]}, {"image": "c.png", "expression": "bird", "polygon": [1, 2]}]
    status, printed = own(bad, "--update")
    stays = "; correct it; its earlier mask stays"
    unlabeled = "; correct it, or leave it out: the item then stays unlabeled"
    assert status == 1 and "0 corrected, 3 unchanged" in printed, "nothing but problems"
    for lines in (kept.read_text().splitlines(), printed.splitlines()):
        assert lines[0].startswith("rows.jsonl line 1: polygon") and lines[0].endswith(stays), lines
        assert lines[1].startswith("rows.jsonl line 2: polygon") and lines[1].endswith(unlabeled)
    assert own_masks(tmp_path / "root")["left cat"] == polygon_rle(LEFT)
    before = kept.stat().st_ino
    own(bad, "--update")
    assert kept.stat().st_ino == before, "it is kept already"
    assert own([row | {"polygon": RIGHT}, {"image": "c.png", "expression": "bird"}], "--update")[0] == 0
    assert not kept.exists()
    status, printed = own([row | {"polygon": []}], "--update")
    assert "; add a mask; its earlier mask stays" in printed and "unlabeled" not in printed
    assert own([row], "--update")[0] == 0 and not kept.exists(), "the bad mask was left out"


def test_a_new_problem_of_an_update_that_changes_nothing_is_kept(own: Import, tmp_path: Path) -> None:
    rows = [{"image": "c.png", "expression": "bird"}, {"image": "gone.png", "expression": "x"}]
    assert own(rows, "--update")[0] == 1
    (line,) = (tmp_path / "root" / "own" / PROBLEMS_FILE).read_text().splitlines()
    assert line.startswith("rows.jsonl line 2: missing image: got 'gone.png'")
