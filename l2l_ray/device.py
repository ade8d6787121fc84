"""Which device to use, that it failed, whether bfloat16 is fast on it, no memory, no numbers; and loading quietly."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from l2l_ray.errors import ConfigError, OutageError, one_line

logger = logging.getLogger(__name__)


class DeviceFailed(OutageError):
    """A device failed: this process cannot compute anything on it any more."""


def named_device(name: str) -> torch.device:
    """Return the named device, which may be one of another machine; `auto` is cuda when there is one, else the CPU.

    Raises:
        ConfigError: torch knows no such device.
    """
    try:
        return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    except RuntimeError as error:
        raise _unusable(name, error) from None


def pick_device(name: str = "auto") -> torch.device:
    """Return the device that `named_device` does, once it was seen to work here.

    Raises:
        ConfigError: torch knows no such device, or there is none here.
    """
    device = named_device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # also of a torch that was built without it
        raise _unusable(name, error) from None
    return device


def _unusable(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"device {name!r} cannot be used here: {one_line(error)}; give 'auto' (prior.device, or `device` of a "
        "predictor), which takes a GPU where there is one"
    )


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


def clip_gradient(module: nn.Module, limit: float, setting: str, rate: float) -> None:
    """Cut the norm of a module's gradient at a limit.

    Args:
        module: Whose gradients are there.
        limit: Of the norm.
        setting: The learning rate's, for the message.
        rate: Its value.
    Raises:
        ConfigError: The gradient is no number any more.
    """
    norm = float(nn.utils.clip_grad_norm_(module.parameters(), limit))
    if not math.isfinite(norm):
        raise ConfigError(
            f"training has diverged: the gradient of a step is {norm}, expected a number; lower {setting}, got "
            f"{rate:g}, in a run under another name"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device, or this machine, has no memory left for a tensor."""
    full = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return full or any(words in str(error) for words in ("can't allocate memory", "STATUS_ALLOC_FAILED"))


def halved(size: int, setting: str, error: BaseException) -> int:
    """Return half of a number of samples that did not fit into memory, and say so in one line.

    Args:
        size: Samples that went through a network at once.
        setting: The config field that says how many.
        error: What torch raised.
    Raises:
        ConfigError: It was one sample.
    """
    why = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
    if size == 1:
        learns = "switch segmenter.checkpoint_activations on, " if setting == "loop.micro_batch" else ""
        raise ConfigError(
            f"one sample does not fit into memory: {why}; {learns}lower segmenter.image_size, or take a smaller model"
        ) from error
    half = size // 2
    logger.warning("out of memory with %d samples at once; from here on %d: %s=%d begins so", size, half, setting, half)
    return half


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
