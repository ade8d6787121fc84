"""Hints: where a user says an object is, by hand; how they travel with their ref; and every kind of damage."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2l_ray.data.hints import MAX_POINTS, hint_text, read_hint
from l2l_ray.data.layout import BadValue
from l2l_ray.data.refer import ReferDataset
from l2l_ray.data.refer_files import plain_records
from l2l_ray.types import Hint
from tests.refer_folder import write_tiny

WIDTH, HEIGHT = 32, 24


def test_pixels_become_fractions_and_a_box_is_cut_at_the_borders() -> None:
    hint = read_hint({"box": [8, 6, 16, 12], "points": [[16, 12], [32, 24]]}, WIDTH, HEIGHT)
    assert hint.fractions(WIDTH, HEIGHT) == Hint((0.25, 0.25, 0.75, 0.75), ((0.5, 0.5), (1.0, 1.0)))
    over = read_hint({"box": [-8, 12, 24, 100]}, WIDTH, HEIGHT)
    assert over.fractions(WIDTH, HEIGHT) == Hint((0.0, 0.5, 0.5, 1.0), ())
    assert over.record() == {"box": [-8, 12, 24, 100]}, "what was given stays as it was"
    assert read_hint({"points": [4, 6]}, WIDTH, HEIGHT) == read_hint({"points": [[4, 6]]}, WIDTH, HEIGHT)


numbers = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3))
values = st.recursive(numbers, lambda inner: st.lists(inner, max_size=5), max_leaves=12)
hints = st.one_of(values, st.dictionaries(st.sampled_from(["box", "points", "x"]), values, max_size=3))


@given(value=hints)
def test_whatever_is_given_is_a_hint_or_a_named_problem(value: Any) -> None:
    text = hint_text(value)
    assert (text == "") == (value is None)
    if text:
        try:
            hint = read_hint(json.loads(text), WIDTH, HEIGHT).fractions(WIDTH, HEIGHT)
        except BadValue as error:
            assert error.args[0].startswith("hint")
            return
        sides = [*(hint.box_xyxy_frac or ()), *(side for point in hint.points_xy_frac for side in point)]
        assert sides and all(0 <= side <= 1 for side in sides)


@pytest.mark.parametrize(
    "value",
    [{"points": [[1, 1]] * (MAX_POINTS + 1)}, {"box": None, "points": []}, {"box": [True, 1, 2, 2]}, "left", 7, {}],
)
def test_what_is_no_hint_is_refused_in_both_ways(value: Any) -> None:
    with pytest.raises(BadValue):
        read_hint(value, WIDTH, HEIGHT)
    with pytest.raises(BadValue):
        read_hint(json.loads(hint_text(value)), WIDTH, HEIGHT)


def test_a_value_that_would_fill_the_memory_or_cannot_be_written_is_told_shortly() -> None:
    assert len(hint_text({"box": [10**5000, 1, 2, 2]})) < 200
    value: Any = [0]
    for _ in range(60):
        value = [value, value]
    assert len(hint_text({"box": value})) < 10**6


def _with_hints(root: Path, hints: dict[int, Any]) -> ReferDataset:
    """Write a tiny data set whose refs hold these hints, and open it."""
    path = write_tiny(root) / "refs(own).p"
    refs = [ref | ({"hint": hints[ref["ref_id"]]} if ref["ref_id"] in hints else {}) for ref in plain_records(path)]
    path.write_bytes(pickle.dumps(refs, 4))
    return ReferDataset.open(root, "tiny", "own", cache_dir=root / "cache")


def test_hints_reach_the_examples_of_their_ref_alone(tmp_path: Path) -> None:
    data = _with_hints(tmp_path, {2: {"box": [8, 6, 16, 12]}, 4: {"points": [[16, 12]]}})
    for _ in range(2):  # parsed, then from the columns
        box, point = Hint((0.25, 0.25, 0.75, 0.75), ()), Hint(None, ((0.5, 0.5),))
        assert [e.hint for e in data.examples("train")[0]] == [None, None, box, box, None, None]
        assert [e.hint for e in data.labeled_examples("val")[0]] == [point, point]
        assert {e.hint for e in data.labeled_examples("testA")[0]} == {None}, "a box of an annotation is no hint"
        data = ReferDataset.open(tmp_path, "tiny", "own", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("hint", [{"box": [40, 6, 8, 12]}, {"bbox": [1, 2, 3, 4]}, "left", [1, 2], {"box": ["a"] * 4}])
def test_a_bad_hint_is_noted_and_its_items_stay(tmp_path: Path, hint: Any) -> None:
    data = _with_hints(tmp_path, {2: hint})
    for examples, skips in (data.examples("train"), data.labeled_examples("train")):
        assert len(examples) == 6 and {e.hint for e in examples} == {None}
        assert [(skip.kind, skip.sent_id) for skip in skips] == [("invalid_hint", 20), ("invalid_hint", 21)]
        assert "ref 2: hint" in skips[0].reason


def test_hints_change_the_digest_and_their_absence_does_not(tmp_path: Path) -> None:
    plain, hinted = _with_hints(tmp_path / "a", {}), _with_hints(tmp_path / "b", {2: {"box": [8, 6, 16, 12]}})
    moved = _with_hints(tmp_path / "c", {2: {"box": [8, 6, 16, 13]}})
    assert len({plain.digest, hinted.digest, moved.digest}) == 3
    refs = [[r.ref_id, r.ann_ids, r.image_id, r.split, r.sentences] for r in plain.refs()]
    images = [[i, f"{i}.png", 32, 24] for i in sorted({r.image_id for r in plain.refs()})]
    content = json.dumps(["tiny", "own", refs, images], separators=(",", ":"))
    assert plain.digest == hashlib.sha256(content.encode()).hexdigest(), "digests of data without hints stay"
