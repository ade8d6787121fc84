"""A run's segmenter: loaded from the weights of a version, and called on a batch; one way of each, for all."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from l2l_ray.config import SegmenterConfig
from l2l_ray.device import fast_bfloat16
from l2l_ray.errors import HEALS
from l2l_ray.loop.state.checkpoint import load_weights
from l2l_ray.segmenter.model import Segmenter, SegmenterOutput

if TYPE_CHECKING:
    from l2l_ray.loop.inference.inputs import Inputs


def load_segmenter(config: SegmenterConfig, weights: Path, device: torch.device, remedy: str = HEALS) -> Segmenter:
    """Return the segmenter of a config with the weights of a file, ready to predict.

    Args:
        config: Which segmenter.
        weights: The file.
        device: Where it is to run.
        remedy: What to do when the file cannot be read.
    Raises:
        CheckpointError: The weights cannot be read, or are of another model.
    """
    segmenter = Segmenter(config.model_copy(update={"pretrained": False}))  # every weight comes from the file
    load_weights(segmenter, weights, remedy=remedy)
    return segmenter.to(device).eval()


def run_segmenter(segmenter: torch.nn.Module, inputs: Inputs, use_autocast: bool) -> SegmenterOutput:
    """Return what a segmenter, or its DDP wrapper, makes of a batch with its priors; gradients as the caller set them.

    Args:
        segmenter: On the device of `inputs`.
        inputs: The batch.
        use_autocast: bfloat16 inside the network; its logits are fp32 either way.
    """
    with autocast(inputs.images.device, use_autocast):
        output: SegmenterOutput = segmenter(
            inputs.images, inputs.expressions, inputs.proposal, inputs.prior_score, inputs.has_prior, inputs.phrases
        )
    return output


def autocast(device: torch.device, enabled: bool) -> AbstractContextManager[None]:
    """Return a bfloat16 autocast context; one that does nothing when not `enabled` or where bfloat16 is slow."""
    used = enabled and fast_bfloat16(device.type)
    return cast("AbstractContextManager[None]", torch.autocast(device.type, torch.bfloat16, enabled=used))
