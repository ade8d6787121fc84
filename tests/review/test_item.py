"""One label as a reviewer sees it: its masks, and why it is doubtful; what is drawn reaches the photo's size."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2l_ray.data.masks import decode, encode, run_lengths
from l2l_ray.doubt import DOUBTFUL
from l2l_ray.errors import DataError
from l2l_ray.loop.state.ledger import read_shard, write_shard
from l2l_ray.review.item import MAX_EDIT_PX, Items, as_runs, edit_size, mask_iou
from l2l_ray.review.journal import Journal
from l2l_ray.review.labels import Labels
from l2l_ray.types import Prior, PseudoLabel


def _mask_of(runs: dict, fill: int = 0) -> np.ndarray:
    inside = np.repeat(np.arange(len(runs["counts"])) % 2 == 1, runs["counts"])
    return inside.reshape(runs["width"], runs["height"]).T


def _changed_labels(run: Path, change) -> tuple[Labels, list[PseudoLabel]]:
    """Write the first shard of the last round again with other labels; return it opened."""
    path, _ = Labels(run).shard(0)
    before = read_shard(path)
    write_shard(path, [change(i, label) for i, label in enumerate(before)])
    return Labels(run), before


def test_what_is_shown_is_what_the_run_stored(reviewed_run: Path) -> None:
    labels, journal = Labels(reviewed_run), Journal(reviewed_run)
    items = Items(labels)
    for position in range(len(labels)):
        sent_id = int(labels.sent_ids[position])
        found = items.details(sent_id, journal)
        record, rle = items.record(sent_id)
        assert (found["state"], found["number"], found["history"], found["masks"]["now"]) == ("open", 0, [], None)
        np.testing.assert_array_equal(_mask_of(found["masks"]["label"]), decode(rle))
        assert found["size"] == found["edit_size"] == rle["size"]
        assert record["expression"] == found["expression"] and record["confidence"] == pytest.approx(
            found["confidence"], abs=1e-4
        )
        assert record["provenance"]["source"] == "pseudo_label" and "rle" not in record
        assert (labels.image_root / record["image"]).samefile(items.photo(sent_id).image_path)
        with Image.open(io.BytesIO(items.preview(sent_id))) as shown:
            assert [shown.height, shown.width] == found["size"]
        prior = items.prior(sent_id)
        assert found["boxes"] == [list(box) for box in prior.boxes_xyxy_frac]
        if found["has_prior_mask"]:
            mask, (x1, y1, x2, y2) = _mask_of(items.prior_mask(sent_id)), prior.boxes_xyxy_frac[0]
            assert mask[int((y1 + y2) / 2 * mask.shape[0]), int((x1 + x2) / 2 * mask.shape[1])]
        else:
            with pytest.raises(DataError, match="did not say where"):
                items.prior_mask(sent_id)
        others = {other["sent_id"] for other in found["others"]}
        same = labels.image_ids == labels.image_ids[position]
        assert others == set(labels.sent_ids[same].tolist()) - {sent_id}


def test_why_a_label_is_doubtful_is_said_in_words(reviewed_run: Path) -> None:
    corner, far = np.zeros((2, 64, 64), bool)
    corner[2:8, 2:8], far[40:60, 40:60] = True, True

    def change(i: int, label: PseudoLabel) -> PseudoLabel:
        grid = label.grid
        mask = (far if i == 2 else corner)[:grid, :grid] & (i != 3)
        values = {name: getattr(label, name) for name in label.__dataclass_fields__}
        return PseudoLabel(**{**values, "target": mask, "accepted": mask, "weight": None, "gate": 0.9 if i else 0.1})

    labels, before = _changed_labels(reviewed_run, change)
    items, journal = Items(labels), Journal(reviewed_run)
    said = [items.details(label.sent_id, journal)["reasons"] for label in before]
    assert "The selector did not believe this label: training left it out." in said[0]
    assert "The label has no pixel: the model marked nothing." in said[3]
    low = labels.confidence[labels.position(before[1].sent_id)]
    expects = f"The run expects that the mask overlaps the object by only {100 * low:.0f} %."
    assert (expects in said[1]) == (low < DOUBTFUL)
    rivals = [label.sent_id for label in before[:2]]
    same_image = len({int(labels.image_ids[labels.position(i)]) for i in rivals}) == 1
    other = labels.expressions[labels.position(rivals[0])]
    claims = f"“{other}” claims the same place (overlap 100 %), but is about another object."
    assert (claims in said[1]) == same_image
    assert any(claims.split("”")[1] in reason for reasons in said for reason in reasons), "some photo has two texts"
    told = [reason for reasons in said for reason in reasons if "language model's place" in reason]
    assert told and all("do not overlap" in reason or "overlap by only" in reason for reason in told)


def test_a_hint_is_not_called_the_language_models_place(reviewed_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = Labels(reviewed_run)
    prior_of = labels.prior

    def hinted(sent_id: int) -> Prior | None:
        prior = prior_of(sent_id)
        return None if prior is None or prior.failure else replace(prior, source="user")

    monkeypatch.setattr(labels, "prior", hinted)
    items, journal = Items(labels), Journal(reviewed_run)
    found = [items.details(sent_id, journal) for sent_id in labels.sent_ids.tolist() if hinted(sent_id)]
    words = [*(one["source"] for one in found), *(reason for one in found for reason in one["reasons"])]
    assert found and not any("language model" in word for word in words)
    assert any("the given hint's place" in word for word in words)


def test_what_is_drawn_is_checked_and_reaches_the_photos_size(reviewed_run: Path) -> None:
    labels = Labels(reviewed_run)
    items, sent_id = Items(labels), int(labels.sent_ids[0])
    example = items.photo(sent_id)
    mask = np.zeros((example.height_px, example.width_px), bool)
    mask[3:20, 5:30] = True
    assert items.drawn(sent_id, run_lengths(encode(mask)).tolist()) == encode(mask)
    area = mask.size
    for counts, why in [
        ([area], "no pixel"),
        ([1, 2, 3], "sum to"),
        ([-1, area + 1], "sum to"),
        ("text", "got str"),
        ([0.5, area - 0.5], "list of at most"),
        (None, "got NoneType"),
    ]:
        with pytest.raises(DataError, match=why):
            items.drawn(sent_id, counts)
    assert mask_iou(encode(mask), encode(mask)) == 1 and mask_iou(encode(mask), encode(~mask)) == 0


def test_what_is_drawn_smaller_reaches_the_photos_size(reviewed_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2l_ray.review.item.MAX_EDIT_PX", 300)
    labels = Labels(reviewed_run)
    items, sent_id = Items(labels), int(labels.sent_ids[0])
    height, width = items.details(sent_id, Journal(reviewed_run))["edit_size"]
    assert height * width <= 300
    half = np.zeros((height, width), bool)
    half[:, : width // 2] = True
    drawn = decode(items.drawn(sent_id, run_lengths(encode(half)).tolist()))
    example = items.photo(sent_id)
    assert drawn.shape == (example.height_px, example.width_px)
    border = round(width // 2 * example.width_px / width)
    assert drawn[:, : border - 1].all() and not drawn[:, border + 1 :].any()


def test_masks_of_very_large_photos_are_drawn_smaller() -> None:
    assert edit_size(3648, 5472) == (3648, 5472), "20 megapixels, as they are"
    height, width = edit_size(9000, 12000)
    assert height * width <= MAX_EDIT_PX and width / height == pytest.approx(4 / 3, rel=1e-3)
    mask = np.zeros((900, 1200), bool)
    mask[300:600, 400:800] = True
    small = _mask_of(as_runs(mask, (90, 120)))
    np.testing.assert_array_equal(small, mask[5::10, 5::10])
