"""Pretraining of the embedded MLLM: dense attributes first, then question and answer. One core, about an hour.

    python jobs/pretrain_embedded.py mllm --work-dir /abs/scratch --out l2l_ray/embedded/mllm

Only the `pretrain` rendering domain is used: no RefShapes image, box or mask. Stage 1 teaches the vision tower what is
where (a language model over a blind tower learns nothing for a long time). Stage 2 trains everything on answers, several
expressions per image, because the image's tokens are paid once. The checkpoint with the best box accuracy on held-out scenes
of the own domain is the one exported; accuracy on scenes rendered as RefShapes is written next to it and chooses nothing.

A run continues from its last checkpoint when it is started again with the same work folder. Batches are keyed by (seed, stage,
step); the learning rate follows whichever of samples and minutes is used up first.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from l2l_ray.embedded import pool as scene_pool
from l2l_ray.embedded.pretrain_mllm_evaluate import box_accuracy
from l2l_ray.embedded.pretrain_mllm_fast import FastVision
from l2l_ray.embedded.pretrain_mllm_losses import AnswerLoss, DenseHeads, Grounding, GroundingHeads, SceneBatch, scene_batch
from l2l_ray.embedded.pretrain_mllm_model import NUM_VISUAL, build_model, build_tokenizer, save_folder
from l2l_ray.embedded.pretrain_mllm_sequences import SequenceMaker, Sequences

logger = logging.getLogger(__name__)

_CELL_LAYER, _POINTER_LAYER, _BOX_LAYER = 3, 4, 5
_DENSE_STEP_SCENES = 16


@dataclass
class Progress:
    """Where a run is; saved with every checkpoint."""

    stage: str = "dense"
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    best: float = -1.0


class Pretrainer:
    """Holds the model, the throw-away heads and the optimiser.

    Args:
        options: Parsed command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.work, self.out = options, Path(options.work_dir), Path(options.out)
        self.pool = scene_pool.load(self.work / "pool", options.scenes)
        colors, shapes = scene_pool.ATTRIBUTE_NAMES["color"], scene_pool.ATTRIBUTE_NAMES["shape"]
        self.tokenizer = build_tokenizer(self.pool.texts[:100_000], [f"{c} {s}" for c in colors for s in shapes])
        torch.manual_seed(options.seed)
        self.model = build_model(self.tokenizer)
        self.model.set_attn_implementation("eager")
        width = self.model.config.text_config.hidden_size
        self.dense, self.grounding = DenseHeads(width), GroundingHeads(width)
        self.vision = FastVision(self.model, options.compile)
        self.progress = Progress()
        self.sequences: SequenceMaker | None = None
        self.averages: dict[str, float] = {}

    def run(self) -> None:
        """Do what is left of both stages."""
        self._load()
        if self.progress.stage == "dense":
            self._stage([*self.model.model.visual.parameters(), *self.dense.parameters()], self._dense_loss)
            self.progress = Progress("answer", best=-1.0)
            self.optimizer_state = None
            self._save()
        self.sequences = SequenceMaker(self.tokenizer, self.pool)
        self.answer_loss = AnswerLoss(
            torch.from_numpy(self.sequences.coordinate_ids), self._position_weights(), self.sequences.is_coordinate
        )
        everything = [*self.model.parameters(), *self.dense.parameters(), *self.grounding.parameters()]
        self._stage(everything, self._answer_loss)
        self._evaluate()

    # ----------------------------------------------------------------------------------------------------------------
    # One stage

    def _stage(self, parameters: list[nn.Parameter], loss_of: Any) -> None:
        is_dense = self.progress.stage == "dense"
        limit = self.options.dense_samples if is_dense else self.options.samples
        minutes = self.options.dense_minutes if is_dense else self.options.minutes
        peak = self.options.dense_lr if is_dense else self.options.lr
        optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
        progress, last = self.progress, time.monotonic()
        next_save, next_eval = progress.seconds + 60, progress.seconds + 60 * self.options.eval_minutes
        self.model.train()
        while (done := max(progress.samples / limit, progress.seconds / 60 / minutes)) < 1:
            floor = 0.3 if is_dense else 0.02
            rate = peak * min(1.0, (progress.step + 1) / 100) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            rng = np.random.default_rng([self.options.seed, int(is_dense), progress.step])
            optimizer.zero_grad(set_to_none=True)
            loss, stats, count = loss_of(rng, done)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            now = time.monotonic()
            progress.step, progress.samples = progress.step + 1, progress.samples + count
            progress.seconds, last = progress.seconds + now - last, now
            self._note({**stats, "loss": loss.item()})
            if progress.step % 50 == 0:
                self._log({"lr": rate, **self.averages})
            if progress.seconds > next_save:
                self.optimizer_state = optimizer.state_dict()
                self._save()
                next_save = progress.seconds + 120
            if not is_dense and progress.seconds > next_eval:
                self._evaluate()
                next_eval = progress.seconds + 60 * self.options.eval_minutes
                last = time.monotonic()
        self.optimizer_state = optimizer.state_dict()
        self._save()

    def _dense_loss(self, rng: np.random.Generator, done: float) -> tuple[torch.Tensor, dict[str, float], int]:
        scenes = np.sort(rng.choice(len(self.pool.images), _DENSE_STEP_SCENES, replace=False))
        batch = scene_batch(self.pool, scenes, rng)
        with torch.autocast("cpu", torch.bfloat16):
            tokens, _ = self.vision(batch.patches)
            loss, stats = self.dense(tokens, batch)
        return loss, stats, len(scenes)

    def _answer_loss(self, rng: np.random.Generator, done: float) -> tuple[torch.Tensor, dict[str, float], int]:
        assert self.sequences is not None
        scenes, rows = self._draw(rng)
        batch, sequences = scene_batch(self.pool, scenes, rng), self.sequences.batch(rows)
        boxes = self.sequences.boxes(rows)
        with torch.autocast("cpu", torch.bfloat16):
            tokens, deepstack = self.vision(batch.patches)
            hidden = self._language(tokens, deepstack, sequences, len(rows) // len(scenes))
            num_answer = sequences.answer.shape[1]
            logits = self.model.lm_head(hidden[-1][:, -num_answer:])
            sigma = max(0.5, 2.0 * (1 - 1.25 * done))
            answer, stats = self.answer_loss(logits, sequences.answer, sequences.values, sigma)
            grounding, ground_stats = self.grounding(_grounding(hidden, sequences, num_answer, boxes))
            dense, dense_stats = self.dense(tokens, batch)
        weight = 0.3 + 0.7 * max(0.0, 1 - done / 0.15)
        stats = {**stats, **ground_stats, "shape": dense_stats["shape"], "edge_px": dense_stats["edge_px"]}
        return answer + (1.2 - done) * grounding + 0.3 * weight * dense, stats, len(rows)

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Choose scenes and, for each, some of its expressions."""
        per_scene = self.options.expressions_per_scene
        scenes = np.sort(rng.choice(len(self.pool.images), self.options.scenes_per_step, replace=False))
        low = np.searchsorted(self.pool.scene_index, scenes)
        high = np.searchsorted(self.pool.scene_index, scenes, side="right")
        enough = high - low >= per_scene
        rows = [rng.choice(np.arange(a, b), per_scene, replace=False) for a, b in zip(low[enough], high[enough], strict=True)]
        return scenes[enough], np.concatenate(rows)

    def _language(
        self, tokens: torch.Tensor, deepstack: list[torch.Tensor], sequences: Sequences, repeats: int
    ) -> tuple[torch.Tensor, ...]:
        """Return the hidden states after the embedding and after every layer (the last one normed)."""
        language: Any = self.model.model.language_model
        embeds = language.embed_tokens(sequences.input_ids)
        start, stop = sequences.image_start, sequences.image_start + NUM_VISUAL
        width = embeds.shape[-1]
        visual = tokens.view(-1, NUM_VISUAL, width).repeat_interleave(repeats, 0)
        embeds = torch.cat([embeds[:, :start], visual.to(embeds.dtype), embeds[:, stop:]], 1)
        mask = torch.zeros_like(sequences.input_ids, dtype=torch.bool)
        mask[:, start:stop] = True
        levels = [level.view(-1, NUM_VISUAL, width).repeat_interleave(repeats, 0).flatten(0, 1) for level in deepstack]
        output = language(
            inputs_embeds=embeds,
            attention_mask=sequences.attention_mask,
            position_ids=sequences.position_ids,
            visual_pos_masks=mask,
            deepstack_visual_embeds=levels,
            output_hidden_states=True,
            use_cache=False,
        )
        return tuple(output.hidden_states)

    def _position_weights(self) -> torch.Tensor:
        """Coordinates 1, the label's two words 0.3, the fixed pieces 0.1."""
        assert self.sequences is not None
        weights = torch.full((len(self.sequences.is_coordinate),), 0.1)
        weights[self.sequences.is_coordinate] = 1.0
        weights[-4:-2] = 0.3
        return weights

    # ----------------------------------------------------------------------------------------------------------------
    # Files

    def _note(self, stats: dict[str, float]) -> None:
        for name, value in stats.items():
            self.averages[name] = 0.97 * self.averages.get(name, value) + 0.03 * value

    def _log(self, values: dict[str, float]) -> None:
        progress = self.progress
        record = {"stage": progress.stage, "step": progress.step, "samples": progress.samples, "minutes": round(progress.seconds / 60, 2)}
        line = json.dumps({**record, **{name: float(f"{value:.4g}") for name, value in values.items()}})
        with (self.work / "training_log.jsonl").open("a") as file:
            file.write(line + "\n")
        logger.info(line)

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "dense": self.dense.state_dict(),
            "grounding": self.grounding.state_dict(),
            "optimizer": self.optimizer_state,
            "progress": self.progress.__dict__,
        }
        partial = self.work / "checkpoint.partial"
        torch.save(state, partial)
        os.replace(partial, self.work / "checkpoint.pt")

    def _load(self) -> None:
        self.optimizer_state: dict[str, Any] | None = None
        path = self.work / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.dense.load_state_dict(state["dense"])
            if "grounding" in state:
                self.grounding.load_state_dict(state["grounding"])
            self.optimizer_state = state["optimizer"]
            self.progress = Progress(**state["progress"])
            logger.info("continuing from %s", self.progress)

    def _evaluate(self) -> None:
        """Export what is there now, measure it as it will be used, and keep it when it is the best so far."""
        candidate = self.work / "candidate"
        save_folder(candidate, self.model, self.tokenizer)
        self.model.train()
        own = box_accuracy(candidate, scene_pool.load(self.work / "val_pretrain"), self.options.eval_scenes)
        other = box_accuracy(candidate, scene_pool.load(self.work / "val_refshapes"), self.options.eval_scenes)
        self._log({f"own_{k}": v for k, v in own.items()} | {f"refshapes_{k}": v for k, v in other.items()})
        if own["iou50"] > self.progress.best:
            self.progress.best = own["iou50"]
            save_folder(self.out, self.model, self.tokenizer)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "training_log.jsonl").write_text((self.work / "training_log.jsonl").read_text())


def _grounding(hidden: tuple[torch.Tensor, ...], sequences: Sequences, num_answer: int, boxes: torch.Tensor) -> Grounding:
    start, stop, last = sequences.image_start, sequences.image_start + NUM_VISUAL, -num_answer
    return Grounding(
        cell_hidden=hidden[_CELL_LAYER][:, start:stop],
        key_hidden=hidden[_POINTER_LAYER][:, start:stop],
        query_hidden=hidden[_POINTER_LAYER][:, last],
        box_hidden=hidden[_BOX_LAYER][:, last],
        boxes=boxes,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `jobs/pretrain_embedded.py mllm`."""
    parser.add_argument("--work-dir", required=True, help="absolute folder for the scene pool, checkpoints and the log")
    parser.add_argument("--out", default=str(Path(__file__).parent / "mllm"), help="folder that receives the best model")
    parser.add_argument("--scenes", type=int, default=32_000, help="scenes of the pool")
    parser.add_argument("--dense-samples", type=int, default=64_000, help="images of stage 1")
    parser.add_argument("--dense-minutes", type=float, default=1e9, help="time limit of stage 1")
    parser.add_argument("--samples", type=int, default=10**9, help="question-answer pairs of stage 2")
    parser.add_argument("--minutes", type=float, default=50.0, help="time limit of stage 2")
    parser.add_argument("--scenes-per-step", type=int, default=16)
    parser.add_argument("--expressions-per-scene", type=int, default=4)
    parser.add_argument("--dense-lr", type=float, default=1.2e-3)
    parser.add_argument("--lr", type=float, default=1.0e-3)
    parser.add_argument("--eval-minutes", type=float, default=6.0, help="minutes between evaluations")
    parser.add_argument("--eval-scenes", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="fuse the vision blocks (needs a C++ compiler)")
    parser.add_argument("--evaluate", action="store_true", help="measure the model in --out and train nothing")


def main(options: argparse.Namespace) -> None:
    """Render what is missing, then train, or only evaluate."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    work = Path(options.work_dir)
    scene_pool.build(work / "val_pretrain", 1000, 128, "pretrain", seed=1_000_001)
    scene_pool.build(work / "val_refshapes", 1000, 128, "refshapes", seed=1_000_001)
    if options.evaluate:
        for name in ("pretrain", "refshapes"):
            pool = scene_pool.load(work / f"val_{name}")
            logger.info("%s: %s", name, box_accuracy(Path(options.out), pool, options.eval_scenes))
        return
    scene_pool.build(work / "pool", options.scenes, 128, "pretrain", seed=11)
    Pretrainer(options).run()
