"""Keyed randomness: every random number of the project is a pure function of (seed, what it is for, which item).

So a result does not depend on the order of the work, on the number of workers or on what was killed and done again, and
no generator state has to be saved. `sample_key` names one random event; the `keyed_*` functions turn keys into numbers
with SplitMix64, for a whole batch at once. A sample's numbers never depend on the other samples of its batch.

These numbers come from integer arithmetic written here, not from numpy's or torch's generators, whose streams may
change between versions. Where a generator's own distributions are wanted (fresh weights, the policy's exploration, a
rendered scene, a published procedure), it is seeded here and nowhere else.

Source: SplitMix64 is Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int64, UInt64

if TYPE_CHECKING:
    import torch

_TORCH_SEEDS = 1 << 64  # how many torch knows; larger ones are refused there
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def sample_key(seed: int, *parts: int | str) -> int:
    """Return the key of one random event, an integer in [0, 2**63).

    The same on every machine and Python version; `1` and `"1"` differ, and so do `("ab", "c")` and `("a", "bc")`.

    Args:
        seed: The run's seed.
        parts: What the event is: a purpose, a round, a `sent_id`, ... Integers or strings, in a fixed order.
    Raises:
        TypeError: If a part is neither an integer nor a string.
    Example: `sample_key(0, "strong_augment", 3, example.sent_id)`.
    """
    fields = [f"s{len(part)}:{part}" if isinstance(part, str) else f"i{index(part)}" for part in (seed, *parts)]
    digest = hashlib.blake2b(",".join(fields).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def keyed_bits(
    keys: Sequence[int] | Int64[np.ndarray, " B"], num: int, stream: str = ""
) -> UInt64[np.ndarray, "B num"]:
    """Return `num` random 64-bit words for each key.

    Args:
        keys: One key per sample, each in [0, 2**63).
        num: Words per sample. The first k words do not depend on it.
        stream: Which use this is. Two functions given the same keys stay independent when their streams differ.
    """
    salt = np.uint64(sample_key(0, "stream", stream))
    start = _mix(np.asarray(keys, dtype=np.uint64) ^ salt)
    # Counting in steps of the golden gamma and mixing is SplitMix64; unsigned arithmetic on arrays wraps without a
    # warning.
    return _mix(start[:, None] + np.arange(1, num + 1, dtype=np.uint64) * _GAMMA)


def keyed_uniform(
    keys: Sequence[int] | Int64[np.ndarray, " B"], num: int, stream: str = ""
) -> Float64[np.ndarray, "B num"]:
    """Return `num` numbers uniform in [0, 1) for each key; arguments as in `keyed_bits`."""
    # 53 bits fill a double's mantissa, so 1.0 cannot be reached by rounding.
    return (keyed_bits(keys, num, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def keyed_permutation(key: int, num_items: int) -> Int64[np.ndarray, " N"]:
    """Return a random permutation of `range(num_items)`."""
    # Words of one key are distinct (mixing is a bijection of a counter), so sorting them never meets a tie.
    return np.argsort(keyed_bits([key], num_items, "permutation")[0]).astype(np.int64)


def numpy_generator(*seed: int) -> np.random.Generator:
    """Return a fresh numpy generator, for what draws numbers of many kinds.

    Args:
        seed: One number >= 0, or several.
    """
    return np.random.default_rng(seed)


def philox_generator(seed: int) -> np.random.Generator:
    """Return a fresh numpy generator on Philox, whose bits are specified: for draws that published figures rest on."""
    return np.random.Generator(np.random.Philox(seed))


def python_generator(seed: int) -> random.Random:
    """Return a fresh generator of Python's own, for what was published with it or needs no array."""
    return random.Random(seed)


def torch_generator(seed: int) -> torch.Generator:
    """Return a fresh torch generator on the CPU, where a seed means the same numbers on every machine."""
    import torch

    return torch.Generator().manual_seed(seed % _TORCH_SEEDS)


def seed_torch(seed: int) -> None:
    """Seed torch's global generators: what fresh weights are drawn from."""
    import torch

    torch.manual_seed(seed % _TORCH_SEEDS)


def _mix(words: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    words ^= words >> np.uint64(31)
    return words
