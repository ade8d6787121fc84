"""Two protocols on one mask, by hand; the native one agrees with a count of pixels; both have names."""

import numpy as np
import pytest
import torch
from PIL import Image

from l2l_ray.data.masks import decode, encode
from l2l_ray.data.native_size import grid_logits_to_native
from l2l_ray.data.protocols import LAVT480, NATIVE, PROTOCOLS, lavt480_counts, native_counts, protocol_named
from l2l_ray.errors import ConfigError


def logits_of(cells: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.where(cells, 1.0, -1.0)).float()[None]


def test_native_counts_are_those_of_the_masks() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(3, 8, 8))).float()
    truths = [rng.random((20, 30)) > 0.5, np.zeros((20, 30), bool), rng.random((11, 17)) > 0.2]
    counts = native_counts(logits, [encode(truth) for truth in truths])
    for row, truth in enumerate(truths):
        predicted = (grid_logits_to_native(logits[row], *truth.shape) > 0).numpy()
        found = [int(c[row]) for c in (counts.intersection, counts.union, counts.predicted, counts.target)]
        assert found == [(predicted & truth).sum(), (predicted | truth).sum(), predicted.sum(), truth.sum()]


def test_lavt_squashes_truth_and_prediction_to_480() -> None:
    # The left half of a 240 x 960 photo: at 480 x 480 it is the left half again, so each pixel counts 4 / 4.
    truth = np.zeros((240, 960), bool)
    truth[:, :480] = True
    everything = np.ones((4, 4), bool)
    counts = lavt480_counts(logits_of(everything), [encode(truth)])
    assert [int(c[0]) for c in (counts.intersection, counts.union)] == [240 * 480, 480 * 480]
    assert [int(c[0]) for c in (counts.predicted, counts.target)] == [480 * 480, 240 * 480]


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (480, 480), (333, 500), (7, 3)])
def test_truth_is_squashed_as_pillow_does(size: tuple[int, int]) -> None:
    truth = np.random.default_rng(1).random(size) > 0.5
    small = np.asarray(Image.fromarray(truth.astype(np.uint8)).resize((480, 480), Image.Resampling.NEAREST))
    counts = lavt480_counts(logits_of(np.ones((4, 4), bool)), [encode(truth)])
    assert counts.target[0] == counts.intersection[0] == small.sum()


def test_the_protocols_differ_where_the_squash_takes_an_object_away() -> None:
    truth = np.zeros((1, 4800), bool)
    truth[0, 0] = True  # one pixel in ten is kept, and not this one
    nothing = logits_of(np.zeros((4, 4), bool))
    assert native_counts(nothing, [encode(truth)]).target[0] == 1
    squashed = lavt480_counts(nothing, [encode(truth)])
    assert (squashed.target[0], squashed.union[0]) == (0, 0)
    assert (NATIVE.empty_union_iou, LAVT480.empty_union_iou) == (1.0, 0.0)


def test_equal_masks_of_many_sentences_and_none() -> None:
    truth = encode(decode(encode(np.eye(30, dtype=bool))))
    counts = lavt480_counts(logits_of(np.ones((4, 4), bool)).expand(20, 4, 4), [truth] * 20)
    assert len(set(counts.intersection.tolist())) == 1 and len(counts.union) == 20
    assert lavt480_counts(torch.zeros(0, 4, 4), []).union.tolist() == []


def test_every_protocol_has_its_name() -> None:
    assert all(protocol_named(name).name == name for name in PROTOCOLS)
    assert "480" in LAVT480.description and "native" in NATIVE.description
    with pytest.raises(ConfigError, match=r"no evaluation protocol 'cris'; use one of native, lavt480"):
        protocol_named("cris")
