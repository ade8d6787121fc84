"""Box accuracy of an exported folder, by real generation."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from l2l_ray.embedded.pool import Pool
from l2l_ray.embedded.pretrain_mllm_losses import pair_iou, scene_batch
from l2l_ray.embedded.pretrain_mllm_model import GRID
from l2l_ray.embedded.pretrain_mllm_sequences import SequenceMaker


def box_accuracy(folder: Path, pool: Pool, num: int) -> dict[str, float]:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    tok = AutoTokenizer.from_pretrained(folder)
    maker = SequenceMaker(tok, pool)
    rng = np.random.default_rng(5)
    scenes = np.arange(num)
    low = np.searchsorted(pool.scene_index, scenes)
    high = np.searchsorted(pool.scene_index, scenes, side="right")
    rows = np.array([rng.integers(a, b) for a, b in zip(low, high)])
    out, bad = [], 0
    for part in np.split(rows, range(64, num, 64)):
        s = maker.batch(part, with_answer=False)
        b = scene_batch(pool, pool.scene_index[part], None)
        with torch.no_grad():
            g = model.generate(
                input_ids=s.input_ids, attention_mask=s.attention_mask, pixel_values=b.patches,
                image_grid_thw=torch.tensor([[1, GRID, GRID]] * len(part)),
                mm_token_type_ids=(s.input_ids == maker.image_id).int(), max_new_tokens=16, do_sample=False,
            )
        for text in tok.batch_decode(g[:, s.input_ids.shape[1] :]):
            m = re.match(r'\[{"bbox_2d": \[(\d+), (\d+), (\d+), (\d+)\]', text)
            bad += m is None
            out.append([int(v) / 1000 for v in m.groups()] if m else [0.0] * 4)
    iou = pair_iou(torch.tensor(out), maker.boxes(rows))
    return {"iou50": (iou >= 0.5).float().mean().item(), "mean_iou": iou.mean().item(), "no_box": bad / num}
