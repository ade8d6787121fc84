"""Box accuracy of a folder with an MLLM, measured the way the package uses it: load, ask, parse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from l2l_ray.config import PriorConfig
from l2l_ray.embedded.pool import Pool
from l2l_ray.embedded.pretrain_mllm_losses import pair_iou
from l2l_ray.prior.mllm import MllmIdentity, MllmPrior, make_prior
from l2l_ray.randomness import numpy_generator

_BATCH = 64


def box_accuracy(folder: Path, pool: Pool, num_scenes: int) -> dict[str, float]:
    """Ask one expression of each of the first scenes.

    Args:
        folder: A saved model with its tokenizer and image processor.
        pool: Scenes it was not trained on.
        num_scenes: How many; scenes without an expression are left out.
    Returns:
        `iou50` (share of boxes with IoU >= 0.5), `mean_iou`, `no_box` (share of replies without a usable box) and
        `score_gap` (mean score of the right answers minus that of the wrong ones: whether the score means anything).
    """
    mllm = MllmPrior.load(PriorConfig(model=str(folder)))
    rows = _one_per_scene(pool, num_scenes)
    boxes, scores = [], []
    for part in np.array_split(rows, -(-len(rows) // _BATCH)):
        images = [Image.fromarray(pool.images[pool.scene_index[row]]) for row in part]
        for reply in mllm.ask(images, [pool.texts[row] for row in part]):
            prior = make_prior("", reply, MllmIdentity.of(mllm), *images[0].size)
            boxes.append(prior.boxes_xyxy_frac[0] if prior.boxes_xyxy_frac else (0.0,) * 4)
            scores.append(prior.score)
    truth = torch.from_numpy(pool.boxes_xyxy_frac[pool.scene_index[rows], pool.object_index[rows]])
    iou = pair_iou(torch.tensor(boxes), truth).numpy()
    right, score = iou >= 0.5, np.array(scores)
    gap = float(score[right].mean() - score[~right].mean()) if 0 < right.sum() < len(right) else 0.0
    no_box = float(np.mean([box[2] <= box[0] for box in boxes]))
    return {"iou50": float(right.mean()), "mean_iou": float(iou.mean()), "no_box": no_box, "score_gap": gap}


def _one_per_scene(pool: Pool, num_scenes: int) -> np.ndarray:
    """Return the row of one expression per scene, the same ones every time."""
    low = np.searchsorted(pool.scene_index, np.arange(num_scenes))
    high = np.searchsorted(pool.scene_index, np.arange(num_scenes), side="right")
    rng = numpy_generator(5)
    return np.array([rng.integers(a, b) for a, b in zip(low, high, strict=True) if b > a])
