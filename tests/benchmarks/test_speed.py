"""The speed benchmark in small: it measures, its two ways of running one network agree, and its parts keep one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.memory import peak_bytes
from benchmarks.speed import __main__ as speed
from benchmarks.speed.published import loss

CPU = torch.device("cpu")


def test_parts_are_measured_one_by_one_into_one_file(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    given = ["--size", "tiny", "--repeats", "1", "--device", "cpu", "--out", str(out)]
    speed.main(["--only", "a", *given])
    speed.main(["--only", "b", "d", *given])
    found = json.loads(out.read_text())
    assert set(found) == {"a", "b", "d"} and found["a"]["machine"]["torch"] == torch.__version__
    assert found["a"]["curves_are_equal"] and found["a"]["curves_float32"]["ours"][0] > 0.1
    assert found["a"]["gflop_per_step"] > 0.01 and found["a"]["peak_mb"]["ours"] > 1
    assert set(found["a"]["times_faster"]) == {"ours", "ours_float32"}
    assert found["b"]["largest_logit_difference_float32"] < 1e-4
    assert found["d"]["masks_are_equal"] and set(found["d"]["masks_per_s"]) == {"one_by_one", "together", "kept"}


def test_the_published_loss_by_hand() -> None:
    logits, target = torch.tensor([[[0.0, 0.0], [2.0, -1.0]]]), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    object_, background = (
        torch.nn.functional.softplus(-torch.tensor([0.0, 2.0])),
        torch.nn.functional.softplus(torch.tensor([0.0, -1.0])),
    )
    expected = (1.1 * object_.sum() + 0.9 * background.sum()) / (2 * 1.1 + 2 * 0.9)
    assert loss(logits, target, 2).item() == pytest.approx(expected.item(), rel=1e-6)


def test_memory_is_what_is_held_at_once() -> None:
    x = torch.ones(1000, 250)  # a megabyte

    def chain() -> None:
        y = x * 2
        z = y + 1
        del y
        (z * 3).view(-1).add_(1)

    assert peak_bytes(chain, CPU) == 2_000_000
    assert peak_bytes(lambda: x.view(-1)[:10].add_(1), CPU) == 0, "views and changes in place are no new memory"
