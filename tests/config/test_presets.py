"""Presets: their models assemble and train, and what they need is what was counted."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image

from l2l_ray.config import NEEDS, PRESETS, RunConfig
from l2l_ray.loop.training.step import make_optimizer
from l2l_ray.prior.mllm import EMBEDDED_FOLDER, MllmIdentity, MllmPrior, make_prior
from l2l_ray.prior.proposal import Proposer
from l2l_ray.prior.reply import with_masks
from l2l_ray.prior.sam import Sam
from l2l_ray.segmenter.adapters import prepare_to_learn
from l2l_ray.segmenter.losses import segmentation_loss
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.types import Prior
from tests.segmenter.test_backbone import dinov2_folder, dinov3_folder
from tests.tiny_models import save_bert, save_swin
from tests.tiny_sams import SAMS
from tests.whole_run import changed

COUNTED = Path(__file__).parents[2] / "benchmarks" / "results" / "preset_needs.json"


def test_what_a_preset_needs_is_what_the_benchmark_counted() -> None:
    counted = json.loads(COUNTED.read_text())
    assert {name: asdict(needs) for name, needs in NEEDS.items()} == {n: found["needs"] for n, found in counted.items()}


def test_presets_for_photos_read_what_an_import_writes() -> None:
    for name in ("photos-small", "photos-full"):
        config = PRESETS[name]()
        assert (config.data.root, config.data.dataset, config.data.split_by) == ("data", "mine", "own")
        assert sum(
            share.get("GPU", 0) * num
            for share, num in (
                (config.cluster.prior_resources, config.cluster.num_priors),
                (config.cluster.labeler_resources, config.cluster.num_labelers),
                (config.cluster.worker_resources, config.cluster.num_workers),
            )
        ) == pytest.approx(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with checkpoints of the presets' families; the shipped MLLM is a Qwen3-VL."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    save_swin(folder / "swin")
    dinov2_folder(folder)
    dinov3_folder(folder)
    save_bert(folder / "bert")
    SAMS["sam2"](folder / "sam2")
    return folder


def _with_tiny_models(config: RunConfig, folder: Path) -> RunConfig:
    models = {"model": str(EMBEDDED_FOLDER), "dtype": "float32", "max_new_tokens": 32, "min_image_tokens": 0}
    if config.prior.sam_model is not None:
        models["sam_model"] = str(folder / "sam2")
    (family,) = (name for name in ("swin", "dinov2", "dinov3") if name in config.segmenter.backbone)
    segmenter = {"backbone": str(folder / family), "text": str(folder / "bert"), "pretrained": family == "swin"}
    segmenter |= {"width": 64, "fusion_width": 64, "fusion_layers": 1}  # as many channels as fit the heads
    return changed(config, prior=models, segmenter=segmenter)


@pytest.mark.parametrize("name", NEEDS)
def test_the_models_of_a_preset_assemble_and_learn(name: str, tiny: Path) -> None:
    config = _with_tiny_models(PRESETS[name](), tiny)
    image, text = Image.new("RGB", (96, 64), (200, 40, 40)), "left red circle"

    mllm = MllmPrior.load(config.prior)
    prior = make_prior("key", mllm.ask([image], [text])[0], MllmIdentity.of(mllm), *image.size)
    boxed = Prior("key", ((0.1, 0.1, 0.6, 0.7),), (0.8,), (), "circle", 0.8, "", "")

    torch.manual_seed(0)
    segmenter = Segmenter(config.segmenter)
    side, grid = config.segmenter.image_size, segmenter.grid
    priors = [prior, boxed]
    if config.prior.proposal == "sam":
        replies = Sam.load(config.prior).draw([image, image], priors)
        priors = [with_masks("key", one, reply) for one, reply in zip(priors, replies, strict=True)]
    proposals = Proposer(config.prior).proposals(priors, grid)
    assert proposals.proposal.shape == (2, grid, grid) and proposals.has_prior[1]
    prepare_to_learn(segmenter, config.segmenter)
    optimizer = make_optimizer(segmenter, config.loop)
    images, target = torch.rand(2, 3, side, side), torch.zeros(2, grid, grid)
    target[:, : grid // 2] = 1
    losses = []
    for _ in range(2):
        output = segmenter(
            images, [text, text], proposals.proposal, proposals.score, proposals.has_prior, ["", "circle"]
        )
        loss = segmentation_loss(output, target, torch.ones_like(target), 2, config.loop.dice_weight, 0.4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
