"""Which device to use, whether bfloat16 is fast there, and loading models without a bar per checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


def pick_device(name: str = "auto") -> torch.device:
    """Return the named device; `auto` is cuda when there is one, else the CPU."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def fast_bfloat16(device_type: str) -> bool:
    """Return whether bfloat16 arithmetic is native: CUDA from Ampere on, CPUs with AVX-512 or AMX bfloat16.

    Where it is not, it works, but slower than float32. A torch that cannot tell (before 2.13) counts as no.
    """
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device_type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def pick_dtype(name: str, device: torch.device) -> str:
    """Return `float32` or `bfloat16`; `auto` is bfloat16 where it is fast."""
    if name != "auto":
        return name
    return "bfloat16" if fast_bfloat16(device.type) else "float32"


@contextmanager
def no_loading_bars() -> Iterator[None]:
    """Load models in the block without transformers' bar per checkpoint; downloads, which are long, keep theirs."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    loading, downloads = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()  # of both
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        if loading:
            logging.enable_progress_bar()
            if not downloads:
                disable_progress_bars()
