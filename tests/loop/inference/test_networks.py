"""A segmenter comes back from its file as it was, and is called alike by itself, wrapped for DDP and under autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from l2l_ray.config import SegmenterConfig
from l2l_ray.errors import CheckpointError
from l2l_ray.loop.inference.inputs import Inputs
from l2l_ray.loop.inference.networks import autocast, load_segmenter, run_segmenter
from l2l_ray.loop.state.checkpoint import save_weights
from l2l_ray.segmenter.model import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
WORDS = ["left red circle", "big blue star"]


@pytest.fixture
def batch(segmenter: Segmenter, inputs_of: Callable[..., Inputs]) -> Inputs:
    return inputs_of(WORDS, segmenter.grid)


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_loaded_segmenter_is_the_saved_one_and_ready_to_predict(
    segmenter: Segmenter, batch: Inputs, tmp_path: Path
) -> None:
    save_weights(segmenter, tmp_path / "teacher.safetensors")
    loaded = load_segmenter(SegmenterConfig(width=32, image_size=64), tmp_path / "teacher.safetensors", CPU)
    assert not loaded.training
    loaded.requires_grad_(False)  # as the saved one: torch chooses kernels by it, and they round differently
    found, expected = (run_segmenter(network, batch, False).mask_logits for network in (loaded, segmenter))
    assert torch.equal(found, expected)


def test_weights_of_another_model_are_refused(segmenter: Segmenter, tmp_path: Path) -> None:
    save_weights(segmenter, tmp_path / "teacher.safetensors")
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_segmenter(SegmenterConfig(width=64, image_size=64), tmp_path / "teacher.safetensors", CPU)


def test_a_run_is_one_encoding_and_one_decoding(segmenter: Segmenter, batch: Inputs) -> None:
    encoded = segmenter.encode(batch.images, segmenter.tokenize(batch.expressions))
    phrases = segmenter.tokenize(batch.phrases)
    expected = segmenter.decode(encoded, batch.proposal, batch.prior_score, batch.has_prior, phrases)
    assert torch.equal(run_segmenter(segmenter, batch, False).mask_logits, expected.mask_logits)


def test_the_wrapper_for_several_ranks_changes_nothing(one_rank: None, batch: Inputs) -> None:
    torch.manual_seed(0)
    student = Segmenter(SegmenterConfig(width=32, image_size=64))
    wrapped = DistributedDataParallel(student)
    found, expected = (run_segmenter(network, batch, False).mask_logits for network in (wrapped, student))
    assert torch.equal(found, expected)
    found.mean().backward()
    assert student.decoder.last_layer.weight.grad is not None


def test_autocast_is_the_networks_alone(segmenter: Segmenter, batch: Inputs) -> None:
    with autocast(CPU, False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with autocast(CPU, True):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    rounded, exact = (run_segmenter(segmenter, batch, used).mask_logits for used in (True, False))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.sigmoid(), exact.sigmoid(), atol=0.1, rtol=0.0)
