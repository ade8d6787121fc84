"""How things are timed here: in turns, several times, medians; and how fast this machine multiplies matrices.

Ways of doing one thing take turns, so that a machine that slows down slows all of them; ratios are the median of those
of neighbours.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.compare.records import processor
from l2l_ray.device import fast_bfloat16

MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}


def seconds_in_turns(
    ways: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of each way, `repeats` times each, after one turn that does not count."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            spent = seconds(way, device)
            if turn:
                found[name].append(spent)
    return found


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Return how long something takes, the device's part included."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def ratio(slow: list[float], fast: list[float]) -> float:
    """Return how many times longer one way takes: the median over turns."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def summary(spent: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return median, least and most seconds of each way."""
    return {
        name: {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times)}
        for name, times in spent.items()
    }


def matmul_flops(dtype: torch.dtype, device: torch.device, repeats: int = 5) -> float:
    """Return the operations per second of a large matrix product, at its best: what no network exceeds."""
    side = MATMUL_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = min(seconds(lambda: a @ b, device) for _ in range(repeats + 1))
    return 2 * side**3 / best


def memory_bytes_per_s(device: torch.device, repeats: int = 5) -> float:
    """Return how many bytes per second are read and written when a large tensor is copied, at its best."""
    source = torch.zeros(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    best = min(seconds(lambda: target.copy_(source), device) for _ in range(repeats + 1))
    return 2 * source.numel() * source.element_size() / best


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "fast_bfloat16": fast_bfloat16(device.type),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
