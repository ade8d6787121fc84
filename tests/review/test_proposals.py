"""The run's own model, asked from the page: in a box, and with the prior that the run stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2l_ray.data.native_size import grid_logits_to_native
from l2l_ray.errors import DataError
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.review.item import Items
from l2l_ray.review.labels import Labels
from l2l_ray.review.proposals import Proposals


@pytest.mark.usefixtures("one_thread")
def test_the_model_answers_without_a_language_model(reviewed_run: Path) -> None:
    labels = Labels(reviewed_run)
    items, proposals = Items(labels), Proposals(reviewed_run)
    position = next(i for i in range(len(labels)) if not items.prior(int(labels.sent_ids[i])).failure)
    sent_id = int(labels.sent_ids[position])
    example, prior = items.photo(sent_id), items.prior(sent_id)
    own = proposals.own(example, prior)
    engine = InferenceEngine(labels.run.config, labels.run.path, "cpu")
    logits = engine.mask_logits(*labels.run.chosen_version(), "unlabeled", [labels.example_row(position)])[0]
    expected = (grid_logits_to_native(logits, example.height_px, example.width_px) > 0).numpy()
    assert (own == expected).mean() > 0.99, "as in evaluation"

    in_box = proposals.in_box(example, [2, 2, 20, 20])
    assert in_box.shape == own.shape and in_box.dtype == np.bool_
    with pytest.raises(DataError, match="hint box outside image"):
        proposals.in_box(example, [9999, 2, 20, 20])


def test_a_photo_that_the_model_sees_turned_is_refused(reviewed_run: Path, tmp_path: Path) -> None:
    labels = Labels(reviewed_run)
    example = Items(labels).photo(int(labels.sent_ids[0]))
    exif = Image.Exif()
    exif[274] = 3  # upside down: its size does not tell
    Image.open(example.image_path).save(tmp_path / "turned.jpg", exif=exif)
    with pytest.raises(DataError, match="sees turned.jpg turned, as its EXIF says"):
        Proposals(reviewed_run).in_box(replace(example, image_path=str(tmp_path / "turned.jpg")), [2, 2, 20, 20])
