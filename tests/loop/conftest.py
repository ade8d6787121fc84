"""The shipped segmenter, and batches and example sets to feed it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from l2l_ray.config import PriorConfig, RunConfig, SegmenterConfig
from l2l_ray.data.images import ImageStore
from l2l_ray.data.masks import encode
from l2l_ray.loop.inference.inputs import ExampleSet, Inputs
from l2l_ray.loop.state.prepare import RunData, prepare
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.training.train import Job
from l2l_ray.prior.proposal import Proposer
from l2l_ray.segmenter.model import Encoded, Segmenter
from l2l_ray.segmenter.text import TextTokens
from l2l_ray.types import Example, LabeledExample, Prior
from tests.loop.cats import write_refer
from tests.loop.training_only import TrainingOnly
from tests.proposals import box_proposal
from tests.whole_run import changed

SIDE_PX = 64
KNOWN_SCORES = (0.2, 0.8, 0.9, 0.95)  # of labeled priors: a score of 0.8 ranks at 2/4


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    """Give the shipped segmenter with fresh new parts; only to be looked through, not to be trained."""
    torch.manual_seed(0)
    return Segmenter(SegmenterConfig(width=32, image_size=64)).eval().requires_grad_(False)


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give a function that leaves segmenters memory for so many samples at once, from then on."""
    encode = Segmenter.encode

    def limit(num: int) -> None:
        def encoded(self: Segmenter, images: torch.Tensor, tokens: TextTokens) -> Encoded:
            if len(images) > num:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return encode(self, images, tokens)

        monkeypatch.setattr(Segmenter, "encode", encoded)

    return limit


def make_inputs(expressions: Sequence[str], grid: int, seed: int = 0) -> Inputs:
    """Return a batch of blobs of color under a box each; every third sample has no prior."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand((len(expressions), 3, 6, 6), generator=generator)
    corners = torch.rand((len(expressions), 2), generator=generator).tolist()
    has_prior = torch.tensor([row % 3 != 2 for row in range(len(expressions))])
    boxes = [box_proposal([(x / 2, y / 2, x / 2 + 0.4, y / 2 + 0.3)], [1.0], grid, 0.08) for x, y in corners]
    return Inputs(
        images=torch.nn.functional.interpolate(small, (SIDE_PX, SIDE_PX), mode="bilinear"),
        expressions=list(expressions),
        phrases=["red circle" if has else "" for has in has_prior.tolist()],
        proposal=torch.where(has_prior[:, None, None], torch.stack(boxes), 0.5),
        prior_score=torch.rand(len(expressions), generator=generator) * has_prior,
        has_prior=has_prior,
    )


@pytest.fixture(scope="session")
def inputs_of() -> Callable[..., Inputs]:
    """Give the maker of batches."""
    return make_inputs


@pytest.fixture
def images() -> Iterator[ImageStore]:
    """Give an image store of the tiny segmenter's size."""
    store = ImageStore(SIDE_PX, cache_mb=8)
    yield store
    store.close()


def make_examples(
    folder: Path, num: int, labeled: bool = False, width_px: int = 48, height_px: int = 40
) -> list[Example]:
    """Return examples with sent_ids 100, 101, ... of images 10, 11, ... on disk; truth is a square that moves right."""
    made: list[Example] = []
    for row in range(num):
        path = folder / f"{10 + row}.png"
        colors = np.random.default_rng(row).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
        Image.fromarray(colors).save(path)
        fields = (100 + row, row, 10 + row, str(path), width_px, height_px, f"left red circle {row}")
        mask = np.zeros((height_px, width_px), bool)
        mask[10:30, 2 * row : 2 * row + 20] = True
        made.append(LabeledExample(*fields, encode(mask), "circle") if labeled else Example(*fields))
    return made


def make_prior_of(example: Example) -> Prior:
    """Return a prior whose box starts at a place that tells the examples apart."""
    x = (example.sent_id - 100) / 32
    return Prior(f"key{example.sent_id}", ((x, 0.25, x + 0.25, 0.75),), (0.8,), (), "red circle", 0.8, "", "")


@pytest.fixture
def set_of(tmp_path: Path, images: ImageStore) -> Callable[..., ExampleSet]:
    """Give the maker of example sets: `set_of(num, labeled=False, grid=32)`; every example has a prior."""

    def make(num: int, labeled: bool = False, grid: int = 32) -> ExampleSet:
        examples = make_examples(tmp_path, num, labeled)
        priors = {example.sent_id: make_prior_of(example) for example in examples}
        return ExampleSet(examples, priors, images, Proposer(PriorConfig()), grid, KNOWN_SCORES)

    return make


@pytest.fixture
def job(whole_run: RunFolder) -> Job:
    """Give what the methods of the finished run share: its burn-in is there, and nothing is written."""
    return Job.begin(whole_run.config, whole_run, TrainingOnly(whole_run))


@pytest.fixture
def config(smoke: RunConfig, tmp_path: Path) -> RunConfig:
    """Give the smoke preset on nine photos of cats."""
    write_refer(tmp_path / "refer")
    data = {"root": str(tmp_path / "refer"), "dataset": "cats", "split_by": "me", "labeled_frac": 0.5}
    return changed(smoke, data=data, loop={"shard_size": 2})


@pytest.fixture
def run(config: RunConfig) -> RunFolder:
    """Give the folder of a run on the cats."""
    return RunFolder.open(config)


@pytest.fixture
def sets(config: RunConfig, run: RunFolder) -> RunData:
    """Give the example sets of the run on the cats."""
    return prepare(config, run)
