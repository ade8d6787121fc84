"""A finished run without the running: a config, a chosen version with random weights, the priors of its labeled set."""

from __future__ import annotations

import json
from pathlib import Path

from l2l_ray.config import PriorConfig, RunConfig, SegmenterConfig, save_config
from l2l_ray.types import Prior

PRIOR = Prior("", ((0.1, 0.2, 0.5, 0.6),), (0.8,), (), "circle", 0.8, "", "[]")


def write_finished_run(root: Path, prior: PriorConfig | None = None) -> Path:
    """Write a run below `root` that can answer, with another prior section if that is given; return its folder."""
    import torch

    from l2l_ray.loop.state.checkpoint import save_weights
    from l2l_ray.loop.state.example_files import write_priors
    from l2l_ray.segmenter.model import Segmenter

    config = RunConfig(prior=prior or PriorConfig(), segmenter=SegmenterConfig(pretrained=False))
    folder = root / "finished"
    version = folder / "train" / "l2l-v0002"
    version.mkdir(parents=True)
    save_config(config, folder / "config.yaml")
    (folder / "selection.json").write_text(json.dumps({"method": "l2l", "version": 2}))
    torch.manual_seed(0)
    save_weights(Segmenter(config.segmenter), version / "teacher.safetensors")
    write_priors(folder / "priors" / "labeled.parquet", [(1, PRIOR)])
    return folder
