"""What the parts measure on: the network of the preset `lavt_like`, with random weights, and batches for it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import BertConfig, SwinConfig

from benchmarks.architectures import WORDS, random_segmenter, write_encoders
from l2l_ray.config import LoopConfig, SegmenterConfig, lavt_like_config
from l2l_ray.loop.inference.inputs import Inputs
from l2l_ray.loop.training.step import TrainBatch
from l2l_ray.randomness import seed_torch, torch_generator
from l2l_ray.segmenter.model import Segmenter

SENTENCE_WORDS = (3, 5, 2, 7, 4)  # RefCOCO's sentences have 3.6 words on average


@dataclass(frozen=True)
class Setup:
    """How large, how often, where.

    Example: `Setup("lavt_like", torch.device("cpu"), batch=2, repeats=3)`
    """

    size: str  # lavt_like, or tiny: the same shape in small, to see that everything works
    device: torch.device
    batch: int
    repeats: int
    compiles: bool = False

    @cached_property
    def section(self) -> SegmenterConfig:
        """The segmenter's section."""
        section = lavt_like_config().segmenter
        if self.size == "tiny":
            small = {"image_size": 96, "width": 32, "fusion_width": 32, "fusion_layers": 1, "num_heads": 2}
            section = section.model_copy(update=small)
        return section

    @property
    def loop(self) -> LoopConfig:
        """The loop's section, for a step of one batch."""
        return lavt_like_config().loop.model_copy(update={"labeled_batch": self.batch})

    def segmenter(self, image_size: int | None = None) -> Segmenter:
        """Return the network, always with the same weights."""
        seed_torch(0)
        section = self.section.model_copy(update={"image_size": image_size or self.section.image_size})
        with tempfile.TemporaryDirectory() as folder:
            if self.size != "tiny":
                return random_segmenter(section, Path(folder)).to(self.device)
            stages = ["stage1", "stage2", "stage3", "stage4"]
            swin = SwinConfig(  # type: ignore[call-arg]
                image_size=96,
                embed_dim=16,
                depths=[1, 1, 1, 1],
                num_heads=[1, 2, 2, 4],
                window_size=3,
                out_features=stages,
            )
            bert = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
            places = write_encoders(Path(folder), swin, bert)
            return Segmenter(section.model_copy(update={**places, "pretrained": False})).to(self.device)

    def rows(self, segmenter: Segmenter, images: int, expressions: int = 1) -> TrainBatch:
        """Return a batch of random images, each with some expressions, one row for each, all with a prior."""
        generator = torch_generator(1)
        side, grid, count = segmenter.image_size, segmenter.grid, images * expressions
        pictures = torch.rand(images, 3, side, side, generator=generator).repeat_interleave(expressions, dim=0)
        proposal = torch.zeros(count, grid, grid)
        proposal[:, grid // 4 : grid // 2, grid // 4 : grid // 2] = 0.9
        target = torch.zeros(count, grid, grid)
        target[:, grid // 4 : grid // 2, grid // 3 : 2 * grid // 3] = 1
        lengths = [SENTENCE_WORDS[row % len(SENTENCE_WORDS)] for row in range(count)]
        inputs = Inputs(
            images=pictures,
            expressions=[" ".join(WORDS[(row + i) % len(WORDS)] for i in range(n)) for row, n in enumerate(lengths)],
            phrases=["red cup"] * count,
            proposal=proposal,
            prior_score=torch.full((count,), 0.8),
            has_prior=torch.ones(count, dtype=torch.bool),
        )
        return TrainBatch(inputs, target, torch.ones_like(target)).to(self.device)
