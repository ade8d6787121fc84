"""Pretrain the tiny backbone, text encoder and fusion that ship with the package.

One start for every method of the project, as Swin and BERT are at full size. It sees the `pretrain` rendering domain
only, with boxes, attributes and expressions, never a mask and never a RefShapes image (those are scored, as a report).

Three losses, trained together after a first stretch with (a) alone, because a text that meets blind features learns
nothing: (a) dense heads on the backbone's levels say at each cell whether a box covers it, what is in it (shape, color,
size word, texture) and where its edges are; (b) the fusion's match logits mark the cells that the referent's box
covers; (c) a throw-away head raises the fused features with backbone laterals to the finest level and marks the
referent's box.

The heads are dropped; an exponential average of the rest is exported at every evaluation.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from l2l_ray.embedded import pool as scene_pool
from l2l_ray.embedded.augment import photometric
from l2l_ray.embedded.encoder_losses import (
    Batch,
    box_coverage,
    dense_loss,
    make_batch,
    match_loss,
    region_loss,
    with_typos,
)
from l2l_ray.embedded.encoder_model import IMAGE_PX, Pretraining, export, tiny_config, write_architecture
from l2l_ray.files import replacing
from l2l_ray.randomness import numpy_generator, seed_torch, torch_generator
from l2l_ray.refshapes.scenes import ScenePlan
from l2l_ray.segmenter.backbone import ENCODER_DIR

logger = logging.getLogger(__name__)

HELD_OUT_SCENES = 1000  # the first chunk of the pool
# Objects may cover one another here: no encoder that photos are known to lacks occlusion, and shapes transfer badly.
PLAN = ScenePlan(twin_frac=0.6, overlap_frac=0.3, textured_frac=0.5)
EVALUATED_IMAGES = 160
_TOKENIZER_TEXTS = 200_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `main`."""
    parser.add_argument(
        "--work-dir", type=Path, required=True, help="scene pool and checkpoints; reused when it exists"
    )
    parser.add_argument("--out", type=Path, default=ENCODER_DIR, help="where the encoder is exported")
    parser.add_argument("--start", type=Path, help="an encoder to train on, instead of random weights")
    parser.add_argument("--samples", type=int, default=450_000, help="expressions seen, the dense stretch not counted")
    parser.add_argument(
        "--minutes", type=float, default=45.0, help="the schedule ends here if it is earlier than --samples"
    )
    parser.add_argument("--scenes", type=int, default=32_000, help="size of the scene pool")
    parser.add_argument("--batch-images", type=int, default=16)
    parser.add_argument("--expressions", type=int, default=4, help="expressions per image of a batch")
    parser.add_argument("--dense-frac", type=float, default=0.12, help="share of the schedule with dense losses alone")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--ema-decay", type=float, default=0.998)
    parser.add_argument("--eval-minutes", type=float, default=4.0, help="evaluate, checkpoint and export this often")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--seed", type=int, default=0)


def main(args: argparse.Namespace) -> None:
    """Build the pool, train, export; continues from the checkpoint in the work folder if there is one."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    seed_torch(args.seed)
    train_pool, val_pool, foreign_pool = _pools(args.work_dir, args.scenes, args.seed)
    write_architecture(args.out, train_pool.texts[:_TOKENIZER_TEXTS], args.start)
    model = Pretraining(tiny_config(args.out))
    if args.start is not None:
        model.load_shipped(Pretraining(tiny_config(args.start, pretrained=True)))
    run = Run(args, model)
    run.restore()
    for batch in run.batches(train_pool):
        run.step(batch)
        if run.evaluation_due():
            run.evaluate({"own": val_pool, "refshapes": foreign_pool})
            run.save()
            run.export()
    logger.info("finished: %d expressions, %.1f minutes", run.state.samples, run.state.seconds / 60)


def _pools(work_dir: Path, num_scenes: int, seed: int) -> tuple[scene_pool.Pool, scene_pool.Pool, scene_pool.Pool]:
    """Return (train, held-out of the same domain, report-only of RefShapes), rendering what is missing."""
    scene_pool.build(work_dir / "pool", num_scenes, IMAGE_PX, "pretrain", seed, PLAN)
    scene_pool.build(work_dir / "pool_refshapes", HELD_OUT_SCENES, IMAGE_PX, "refshapes", seed + 101, None)
    everything = scene_pool.load(work_dir / "pool", num_scenes)
    split = int(np.searchsorted(everything.scene_index, HELD_OUT_SCENES))
    val = scene_pool.load(work_dir / "pool", HELD_OUT_SCENES)
    train = scene_pool.Pool(
        images=everything.images[HELD_OUT_SCENES:],
        attributes=everything.attributes[HELD_OUT_SCENES:],
        boxes_xyxy_frac=everything.boxes_xyxy_frac[HELD_OUT_SCENES:],
        scene_index=everything.scene_index[split:] - HELD_OUT_SCENES,
        object_index=everything.object_index[split:],
        texts=everything.texts[split:],
    )
    return train, val, scene_pool.load(work_dir / "pool_refshapes")


@dataclass
class _State:
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    last_eval_s: float = 0.0
    recent: dict[str, list[float]] = field(default_factory=dict)


class Run:
    """Optimiser, schedule, average of the weights, checkpoints, log and export of one pretraining."""

    def __init__(self, args: argparse.Namespace, model: Pretraining) -> None:
        self.args, self.model = args, model
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.state = _State()
        self.started_s = time.monotonic()
        self.log_path = args.out / "training_log.jsonl"

    @property
    def progress(self) -> float:
        """Share of the schedule that is over, in [0, 1]: of the samples or of the time, whichever is further."""
        by_time: float = self.state.seconds / 60 / self.args.minutes
        by_samples: float = self.state.samples / self.args.samples
        return min(1.0, max(by_samples, by_time))

    @property
    def dense_only(self) -> bool:
        """Tell whether the run is in its first stretch, in which only the backbone learns."""
        return bool(self.progress < self.args.dense_frac)

    def batches(self, pool: scene_pool.Pool) -> Iterator[Batch]:
        """Yield batches until the schedule ends; step s sees the same scenes in every run."""
        num_images = self.args.batch_images
        while self.progress < 1.0:
            rng = numpy_generator(self.args.seed, 7, self.state.step)
            scenes = rng.integers(len(pool.images), size=num_images * (2 if self.dense_only else 1))
            batch = make_batch(pool, np.sort(scenes), self.args.expressions, rng)
            generator = torch_generator(self.args.seed * 1_000_003 + self.state.step)
            images = photometric(batch.images, generator)
            yield replace(batch, images=images, texts=with_typos(batch.texts, rng))

    def step(self, batch: Batch) -> None:
        """Take one optimiser step."""
        self._set_lr()
        with torch.autocast("cpu", torch.bfloat16):
            losses, num_seen = self._losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self._update_average()
        self.state.step += 1
        self.state.samples += num_seen
        now_s = time.monotonic()
        self.state.seconds, self.started_s = self.state.seconds + now_s - self.started_s, now_s
        for name, value in losses.items():
            self.state.recent.setdefault(name, []).append(float(value.detach()))

    def evaluation_due(self) -> bool:
        """Tell whether to evaluate: every `eval_minutes`, and at the end."""
        waited_s = self.state.seconds - self.state.last_eval_s
        return bool(self.progress >= 1.0 or waited_s >= 60 * self.args.eval_minutes)

    def evaluate(self, pools: dict[str, scene_pool.Pool]) -> None:
        """Score the averaged weights on each pool and append a line to the training log."""
        self.state.last_eval_s = self.state.seconds
        row: dict[str, Any] = {
            "step": self.state.step,
            "samples": self.state.samples,
            "minutes": round(self.state.seconds / 60, 2),
            "progress": round(self.progress, 4),
            "train": {name: round(float(np.mean(values)), 4) for name, values in self.state.recent.items()},
        }
        self.state.recent = {}
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        for name, pool in pools.items():
            row[name] = evaluate(self.model, pool)
        self.model.load_state_dict(kept)
        logger.info("%s", json.dumps(row))
        with self.log_path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        path = self.args.work_dir / "checkpoint.pt"
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "state": vars(self.state),
        }
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def restore(self) -> None:
        """Continue from the checkpoint in the work folder; a fresh start begins a new log."""
        path = self.args.work_dir / "checkpoint.pt"
        if not path.exists():
            self.log_path.unlink(missing_ok=True)
            return
        saved = torch.load(path, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.average = saved["average"]
        self.optimizer.load_state_dict(saved["optimizer"])
        self.state = _State(**saved["state"])
        logger.info("continues at step %d, %d samples", self.state.step, self.state.samples)

    def export(self) -> None:
        """Write the averaged weights in the layout that `Backbone`, `TextEncoder` and `Fusion` load."""
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        export(self.model, self.args.out)
        self.model.load_state_dict(kept)

    def _losses(self, batch: Batch) -> tuple[dict[str, Tensor], int]:
        model = self.model
        maps = model.backbone(batch.images)
        losses = {
            f"dense{level}": dense_loss(head, maps[int(level)], batch)[0] / len(model.cell_heads)
            for level, head in model.cell_heads.items()
        }
        if self.dense_only:
            return losses, 0
        fused, region_logits = model.locate(maps, model.text.tokenize(batch.texts), batch.image_index)
        losses["match"] = match_loss(fused.match_logits_BHW, batch.referent_xyxy)
        losses["region"] = region_loss(region_logits, batch.referent_xyxy)
        return losses, len(batch.texts)

    def _set_lr(self) -> None:
        """Warm up over 200 steps, then a cosine to 2 % of the top."""
        warm = min(1.0, (self.state.step + 1) / 200)
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress))
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * warm * cosine

    def _update_average(self) -> None:
        decay = min(self.args.ema_decay, (1 + self.state.step) / (10 + self.state.step))
        current = self.model.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [current[name] for name in self.average], 1 - decay)


@torch.no_grad()
def evaluate(model: Pretraining, pool: scene_pool.Pool, num_expressions: int = 4) -> dict[str, float]:
    """Return pointing accuracies, box-region IoU and cell attribute accuracies on the first images of a pool.

    `match_pointing`: the cell of the largest match logit meets the referent's box. `fine_pointing`: the same on the
    fine grid. `region_iou`: IoU of the fine map above 0.5 with the box region. `cell_*`: accuracy at the fusion level.
    """
    rng = numpy_generator(0)
    rows: list[Tensor] = []
    for scenes in np.array_split(np.arange(EVALUATED_IMAGES), 5):
        batch = make_batch(pool, scenes, num_expressions, rng)
        with torch.autocast("cpu", torch.bfloat16):
            maps = model.backbone(batch.images)
            fused, region_logits = model.locate(maps, model.text.tokenize(batch.texts), batch.image_index)
            _, accuracy = dense_loss(model.cell_heads[str(model.level)], maps[model.level], batch)
        coarse = box_coverage(batch.referent_xyxy, fused.match_logits_BHW.shape[-1]).flatten(1)
        fine = box_coverage(batch.referent_xyxy, region_logits.shape[-1]).flatten(1)
        marked, region = region_logits.flatten(1) > 0, fine > 0.5
        row = [
            (coarse.gather(1, fused.match_logits_BHW.flatten(1).argmax(1)[:, None]) > 0.1).float().mean(),
            (fine.gather(1, region_logits.flatten(1).argmax(1)[:, None]) > 0.1).float().mean(),
            ((marked & region).sum(1) / (marked | region).sum(1).clamp(min=1)).mean(),
        ]
        rows.append(torch.cat([torch.stack(row), accuracy]))
    names = ["match_pointing", "fine_pointing", "region_iou", *(f"cell_{name}" for name in scene_pool.ATTRIBUTE_NAMES)]
    return dict(zip(names, (round(x, 4) for x in torch.stack(rows).mean(0).tolist()), strict=True))
