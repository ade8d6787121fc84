"""Two steps of a student as it is and two of one that is compiled; prints both losses and what was said, as JSON.

A process of its own, because the checks of shapes that the tests put around every function cannot be compiled.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import Any

import torch

from l2l_ray.config import LoopConfig, SegmenterConfig
from l2l_ray.loop.training.compiled import Compiled
from l2l_ray.loop.training.step import TrainBatch, make_optimizer, train_step
from l2l_ray.segmenter.model import Segmenter
from tests.loop.conftest import make_inputs

LOOP = LoopConfig(labeled_batch=2, autocast=False)


class Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def losses(is_compiled: bool) -> list[float]:
    torch.manual_seed(0)
    student = Segmenter(SegmenterConfig(width=32, image_size=64, fusion_layers=1, pretrained=False))
    names = set(student.state_dict())
    inputs = make_inputs(["left red circle", "square"], student.grid)
    batch = TrainBatch(inputs, (inputs.proposal > 0.6).float(), torch.ones_like(inputs.proposal))
    step: Any = partial(train_step, student, make_optimizer(student, LOOP), batch, None, LOOP, 1.0)
    compiled = Compiled(student) if is_compiled else None
    found = [(step() if compiled is None else compiled.run(step, several_ranks=False))["loss"] for _ in range(2)]
    assert set(student.state_dict()) == names, "a version of a compiled student is read like any other"
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    said = Said()
    logger = logging.getLogger("l2l_ray.loop.training.compiled")
    logger.addHandler(said)
    logger.setLevel(logging.INFO)
    print(json.dumps({"plain": losses(False), "compiled": losses(True), "said": said.lines}))
