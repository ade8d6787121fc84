"""Pretraining of the embedded MLLM: dense attributes first, then question and answer. One core, 40 minutes.

    python jobs/pretrain_embedded.py mllm --work-dir /abs/scratch
    python jobs/pretrain_embedded.py mllm --work-dir /abs/scratch --evaluate

Only the `pretrain` rendering domain is used: no RefShapes image, box or mask. Stage 1 teaches the vision tower what
is where (a language model over a blind tower learns nothing for a long time). Stage 2 trains everything on answers,
several expressions per image, because the image's tokens are paid once. The checkpoint with the best box accuracy
on held-out scenes of the own domain is the one exported; accuracy on scenes rendered as RefShapes is written next
to it and chooses nothing.

A run continues from its last checkpoint when it is started again with the same work folder. Batches are keyed by
(seed, stage, step); the learning rate follows whichever of samples and minutes is used up first.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from l2l_ray.embedded import pool as scene_pool
from l2l_ray.embedded.pretrain_mllm_evaluate import box_accuracy
from l2l_ray.embedded.pretrain_mllm_fast import FastLanguage, FastVision
from l2l_ray.embedded.pretrain_mllm_losses import AnswerLoss, DenseHeads, Grounding, GroundingHeads, scene_batch
from l2l_ray.embedded.pretrain_mllm_model import IMAGE_SIZE, NUM_VISUAL, build_model, build_tokenizer, save_folder
from l2l_ray.embedded.pretrain_mllm_sequences import SequenceMaker, Sequences
from l2l_ray.files import replacing
from l2l_ray.randomness import numpy_generator, seed_torch
from l2l_ray.refshapes.scenes import Domain

logger = logging.getLogger(__name__)

_CELL_LAYER, _POINTER_LAYER, _BOX_LAYER = 3, 4, 5
DENSE_STEP_SCENES = 16
_DENSE_WEIGHT = 0.8  # of the dense heads in stage 2; with 0.1 the tower forgot shapes (0.97 -> 0.87 in 6 minutes)
_WARMUP_STEPS = 100
_SAVE_SECONDS = 120.0
VAL_SCENES, _VAL_SEED, _POOL_SEED = 1000, 1_000_001, 11
_VAL_DOMAINS: tuple[Domain, ...] = ("pretrain", "refshapes")

LossOfStep = Callable[[np.random.Generator, float], tuple[Tensor, dict[str, float], int]]


@dataclass
class Progress:
    """Where a run is; saved with every checkpoint."""

    stage: str = "dense"
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    best: float = -1.0


def learning_rate(progress: Progress, done: float, peak: float) -> float:
    """Return warm-up, then a cosine; stage 1 ends at 0.3 of its peak because stage 2 goes on with the tower.

    Args:
        progress: Which stage, and how many steps it has taken.
        done: Share of the stage's time that has passed, in [0, 1].
        peak: The stage's highest rate.
    """
    floor = 0.3 if progress.stage == "dense" else 0.02
    warmup = min(1.0, (progress.step + 1) / _WARMUP_STEPS)
    return float(peak * warmup * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))))


class Pretrainer:
    """Holds the model, the throw-away heads and the optimiser.

    Args:
        options: Parsed command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.work, self.out = options, Path(options.work_dir), Path(options.out)
        self.pool = scene_pool.load(self.work / "pool", options.scenes)
        counts = np.bincount(self.pool.scene_index, minlength=len(self.pool.images))
        self.eligible = np.flatnonzero(counts >= options.expressions_per_scene)
        colors, shapes = scene_pool.ATTRIBUTE_NAMES["color"], scene_pool.ATTRIBUTE_NAMES["shape"]
        self.tokenizer = build_tokenizer(self.pool.texts[:100_000], [f"{c} {s}" for c in colors for s in shapes])
        seed_torch(options.seed)
        self.model = build_model(self.tokenizer)
        width = self.model.model.language_model.config.hidden_size
        self.dense, self.grounding = DenseHeads(width), GroundingHeads(width)
        self.vision = FastVision(self.model, options.compile)
        self.language = FastLanguage(self.model, options.compile)
        self.sequences = SequenceMaker(self.tokenizer, self.pool)
        self.answer_loss = AnswerLoss(
            torch.from_numpy(self.sequences.coordinate_ids),
            _position_weights(self.sequences),
            self.sequences.is_coordinate,
        )
        self.progress = Progress()
        self.optimizer_state: dict[str, Any] | None = None
        self.averages: dict[str, float] = {}
        self._load()

    def run(self) -> None:
        """Do what is left of both stages."""
        if self.progress.stage == "dense":
            self._stage([*self.model.model.visual.parameters(), *self.dense.parameters()], self._dense_step)
            self.progress, self.optimizer_state = Progress("answer"), None
            self._save()
        everything = [*self.model.parameters(), *self.dense.parameters(), *self.grounding.parameters()]
        self._stage(everything, self._answer_step)
        self._evaluate()

    # ----------------------------------------------------------------------------------------------------------------
    # One stage

    def _stage(self, parameters: list[nn.Parameter], loss_of_step: LossOfStep) -> None:
        progress, is_dense = self.progress, self.progress.stage == "dense"
        optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
        peak = self.options.dense_lr if is_dense else self.options.lr
        next_save = progress.seconds + _SAVE_SECONDS
        next_eval = progress.seconds + 60 * self.options.eval_minutes
        while (done := self._done()) < 1:
            started = time.monotonic()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(progress, done, peak)
            rng = numpy_generator(self.options.seed, int(is_dense), progress.step)
            optimizer.zero_grad(set_to_none=True)
            loss, stats, count = loss_of_step(rng, done)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            progress.step, progress.samples = progress.step + 1, progress.samples + count
            progress.seconds += time.monotonic() - started
            self._note({**stats, "loss": loss.item()})
            if progress.seconds > next_save:
                self.optimizer_state = optimizer.state_dict()
                self._save()
                next_save = progress.seconds + _SAVE_SECONDS
            if not is_dense and progress.seconds > next_eval:
                self._evaluate()
                next_eval = progress.seconds + 60 * self.options.eval_minutes
        self.optimizer_state = optimizer.state_dict()
        self._save()

    def _done(self) -> float:
        """Return the used share of the stage's budget, by samples or by minutes, whichever is further."""
        options, progress = self.options, self.progress
        if progress.stage == "dense":
            samples, minutes = options.dense_samples, options.dense_minutes
        else:
            samples, minutes = options.samples, options.minutes
        return float(max(progress.samples / samples, progress.seconds / 60 / minutes))

    def _dense_step(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, float], int]:
        scenes = np.sort(rng.choice(len(self.pool.images), DENSE_STEP_SCENES, replace=False))
        batch = scene_batch(self.pool, scenes, rng)
        with torch.autocast("cpu", torch.bfloat16):
            tokens, _ = self.vision(batch.patches)
            loss, stats = self.dense(tokens, batch)
        return loss, stats, len(scenes)

    def _answer_step(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, float], int]:
        scenes, rows = self._draw(rng)
        batch, sequences = scene_batch(self.pool, scenes, rng), self.sequences.batch(rows)
        repeats, num_answer = self.options.expressions_per_scene, sequences.answer.shape[1]
        sigma = max(0.5, 2.0 * (1 - 1.25 * done))  # spread of the coordinates' targets, in steps of ten (of 1000)
        with torch.autocast("cpu", torch.bfloat16):
            tokens, deepstack = self.vision(batch.patches)
            visual, *levels = (
                part.view(-1, NUM_VISUAL, part.shape[-1]).repeat_interleave(repeats, 0) for part in (tokens, *deepstack)
            )
            hidden = self.language(sequences, visual, levels)
            logits = self.model.lm_head(hidden[-1][:, -num_answer:])
            answer, stats = self.answer_loss(logits, sequences.answer, sequences.values, sigma)
            grounding, ground_stats = self.grounding(_grounding(hidden, sequences, self.sequences.boxes(rows)))
            dense, dense_stats = self.dense(tokens, batch)
        stats = {**stats, **ground_stats, "shape": dense_stats["shape"], "edge_px": dense_stats["edge_px"]}
        return answer + (1.2 - done) * grounding + _DENSE_WEIGHT * dense, stats, len(rows)

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Choose scenes and, for each, some of its expressions; always as many, so that shapes never change."""
        scenes = np.sort(rng.choice(self.eligible, self.options.scenes_per_step, replace=False))
        low = np.searchsorted(self.pool.scene_index, scenes)
        high = np.searchsorted(self.pool.scene_index, scenes, side="right")
        per_scene = self.options.expressions_per_scene
        rows = [rng.choice(np.arange(a, b), per_scene, replace=False) for a, b in zip(low, high, strict=True)]
        return scenes, np.concatenate(rows)

    # ----------------------------------------------------------------------------------------------------------------
    # Files

    def _note(self, stats: dict[str, float]) -> None:
        for name, value in stats.items():
            self.averages[name] = 0.97 * self.averages.get(name, value) + 0.03 * value
        if self.progress.step % 50 == 0:
            self._log(self.averages)

    def _log(self, values: dict[str, float]) -> None:
        place = self.progress
        record = {"stage": place.stage, "step": place.step, "samples": place.samples}
        record |= {"minutes": round(place.seconds / 60, 2)}
        line = json.dumps(record | {name: float(f"{value:.4g}") for name, value in values.items()})
        with (self.work / "training_log.jsonl").open("a") as file:
            file.write(line + "\n")
        logger.info(line)

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "dense": self.dense.state_dict(),
            "grounding": self.grounding.state_dict(),
            "optimizer": self.optimizer_state,
            "progress": asdict(self.progress),
        }
        with replacing(self.work / "checkpoint.pt") as temporary:
            torch.save(state, temporary)

    def _load(self) -> None:
        path = self.work / "checkpoint.pt"
        if path.exists():
            state: dict[str, Any] = torch.load(path, weights_only=True)
            for name in ("model", "dense", "grounding"):
                getattr(self, name).load_state_dict(state[name])
            self.optimizer_state, self.progress = state["optimizer"], Progress(**state["progress"])
            logger.info("continuing from %s", self.progress)

    def _evaluate(self) -> None:
        """Save what is there now, measure it as it will be used, and export it when it is the best so far."""
        candidate = self.work / "candidate"
        save_folder(candidate, self.model, self.tokenizer)
        found = evaluate(candidate, self.work, self.options.eval_scenes)
        self._log({f"{domain}_{name}": value for domain, values in found.items() for name, value in values.items()})
        if found["pretrain"]["iou50"] >= self.progress.best:
            self.progress.best = found["pretrain"]["iou50"]
            shutil.copytree(candidate, self.out, dirs_exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)  # nothing is exported before the first better model
        shutil.copy(self.work / "training_log.jsonl", self.out / "training_log.jsonl")


def evaluate(folder: Path, work: Path, num_scenes: int) -> dict[str, dict[str, float]]:
    """Return `box_accuracy` on held-out scenes of the own domain and on scenes rendered as RefShapes."""
    return {
        domain: box_accuracy(folder, scene_pool.load(work / f"val_{domain}"), num_scenes) for domain in _VAL_DOMAINS
    }


def _position_weights(sequences: SequenceMaker) -> Tensor:
    """Coordinates 1, the label's two words 0.3, the fixed pieces 0.1."""
    weights = torch.full((len(sequences.is_coordinate),), 0.1)
    weights[sequences.is_coordinate] = 1.0
    weights[-4:-2] = 0.3
    return weights


def _grounding(hidden: list[Tensor], sequences: Sequences, boxes: Tensor) -> Grounding:
    start, stop, last = sequences.image_start, sequences.image_start + NUM_VISUAL, -sequences.answer.shape[1]
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
    parser.add_argument(
        "--out", default=str(Path(__file__).parent / "mllm"), help="folder that receives the best model"
    )
    parser.add_argument("--scenes", type=int, default=32_000, help="scenes of the pool")
    parser.add_argument("--dense-samples", type=int, default=40_000, help="images of stage 1")
    parser.add_argument("--dense-minutes", type=float, default=math.inf, help="time limit of stage 1")
    parser.add_argument("--samples", type=int, default=110_000, help="question-answer pairs of stage 2")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time limit of stage 2")
    parser.add_argument("--scenes-per-step", type=int, default=16)
    parser.add_argument("--expressions-per-scene", type=int, default=4)
    parser.add_argument("--dense-lr", type=float, default=1.2e-3)
    parser.add_argument("--lr", type=float, default=1.0e-3)
    parser.add_argument("--eval-minutes", type=float, default=5.0, help="training minutes between evaluations")
    parser.add_argument("--eval-scenes", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="fuse kernels (1.7 times faster, needs a C++ compiler)")
    parser.add_argument("--evaluate", action="store_true", help="measure the model in --out and train nothing")


def main(options: argparse.Namespace) -> None:
    """Render what is missing, then train, or only evaluate."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    work = Path(options.work_dir)
    for domain in _VAL_DOMAINS:
        scene_pool.build(work / f"val_{domain}", VAL_SCENES, IMAGE_SIZE, domain, seed=_VAL_SEED)
    if options.evaluate:
        for name, values in evaluate(Path(options.out), work, options.eval_scenes).items():
            logger.info("%s: %s", name, {key: round(value, 4) for key, value in values.items()})
        return
    scene_pool.build(work / "pool", options.scenes, IMAGE_SIZE, "pretrain", seed=_POOL_SEED)
    Pretrainer(options).run()
