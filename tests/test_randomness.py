"""Randomness: known values, independence of batch composition, uniformity, and no generator seeded anywhere else."""

import ast
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from l2l_ray.randomness import (
    keyed_bits,
    keyed_permutation,
    keyed_uniform,
    numpy_generator,
    philox_generator,
    python_generator,
    sample_key,
    seed_torch,
    torch_generator,
)

ROOT = Path(__file__).parent.parent


def test_sample_key_is_pinned() -> None:
    # Results of finished runs depend on these values: a change here breaks resuming and comparing.
    assert sample_key(0) == sample_key(0)
    assert sample_key(0, "labeled", 7) == 6720434971513684786
    assert 0 <= sample_key(1, "a", 2) < 2**63


def test_sample_key_separates_parts() -> None:
    keys = {
        sample_key(0),
        sample_key(1),
        sample_key(0, 1),
        sample_key(0, "1"),
        sample_key(0, "ab", "c"),
        sample_key(0, "a", "bc"),
        sample_key(0, "a,i1"),
        sample_key(0, "a", 1),
        sample_key(0, -1),
    }
    assert len(keys) == 9


def test_words_are_splitmix64() -> None:
    # The key that a stream's salt cancels starts the published generator at 0; these are its first outputs.
    words = keyed_bits([sample_key(0, "stream", "")], 3)[0]
    assert [hex(word) for word in words] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def test_numbers_of_a_key_do_not_depend_on_batch_or_count() -> None:
    keys = [sample_key(0, "test", i) for i in range(10)]
    together = keyed_uniform(keys, 5, "s")
    alone = np.concatenate([keyed_uniform([key], 5, "s") for key in keys])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(keyed_uniform(keys, 9, "s")[:, :5], together)
    assert (keyed_bits(keys, 5, "s") != keyed_bits(keys, 5, "t")).all()


def test_uniform_is_uniform_also_for_small_consecutive_keys() -> None:
    draws = keyed_uniform(range(2000), 50)
    assert draws.min() >= 0 and draws.max() < 1
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    chi2 = ((counts - 5000) ** 2 / 5000).sum()
    assert chi2 < 43.8  # 99.9 % quantile with 19 degrees of freedom
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.1


def test_permutation() -> None:
    order = keyed_permutation(3, 100)
    assert sorted(order) == list(range(100)) and list(order) != list(range(100))
    np.testing.assert_array_equal(order, keyed_permutation(3, 100))
    assert list(keyed_permutation(3, 0)) == []


def test_generators_give_the_numbers_of_the_libraries() -> None:
    assert numpy_generator(5).integers(2**62) == np.random.default_rng(5).integers(2**62)
    assert numpy_generator(5, 7).integers(2**62) == np.random.default_rng([5, 7]).integers(2**62)
    assert philox_generator(5).integers(2**62) == np.random.Generator(np.random.Philox(5)).integers(2**62)
    assert python_generator(5).random() == random.Random(5).random()
    expected = torch.rand(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.rand(3, generator=torch_generator(5)), expected)
    assert torch.equal(torch.rand(3, generator=torch_generator(5 + 2**64)), expected), "seeds of any size"
    seed_torch(5)
    assert torch.equal(torch.rand(3), expected)


MAKERS = {"manual_seed", "manual_seed_all", "default_rng", "seed", "Random", "RandomState", "Generator", "Philox"}


def strays(code: str) -> list[str]:
    """Return the calls that seed or make a generator, or draw from a global one, as `line: call`.

    Fresh weights are drawn from torch's global generator, as its own layers are; seeding it is what is found here.
    """
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module in ("random", "numpy.random"):
            found.append(f"{node.lineno}: from {node.module} import {', '.join(alias.name for alias in node.names)}")
        if not isinstance(node, ast.Call):
            continue
        *place, name = ast.unparse(node.func).split(".")
        is_global = place in (["random"], ["np", "random"], ["numpy", "random"])
        if name in MAKERS or is_global:
            found.append(f"{node.lineno}: {ast.unparse(node.func)}")
    return found


@pytest.mark.parametrize(
    "stray",
    [
        "torch.manual_seed(0)",
        "torch.Generator(device='cpu')",
        "torch.Generator().manual_seed(1)",
        "generator.manual_seed(1)",
        "np.random.default_rng(0)",
        "random.Random(key)",
        "random.shuffle(rows)",
        "np.random.permutation(9)",
        "numpy.random.rand(9)",
        "from random import shuffle",
        "from numpy.random import default_rng",
    ],
)
def test_a_stray_generator_is_found(stray: str) -> None:
    assert strays(f"def draw():\n    {stray}\n")


@pytest.mark.parametrize(
    "fine",
    [
        "rng: np.random.Generator = numpy_generator(0)",
        "rng.random(3)",
        "draws.shuffle(rows)",
        "torch.rand(9, generator=torch_generator(3))",
        "sample_key(seed, 'stream')",
    ],
)
def test_keyed_draws_are_not_strays(fine: str) -> None:
    assert not strays(fine)


@pytest.mark.parametrize("folder", ["l2l_ray", "jobs", "benchmarks", "tune_spaces"])
def test_every_generator_is_made_in_one_module(folder: str) -> None:
    files = [path for path in sorted((ROOT / folder).rglob("*.py")) if path != ROOT / "l2l_ray" / "randomness.py"]
    assert files
    found = {str(path.relative_to(ROOT)): lines for path in files if (lines := strays(path.read_text()))}
    assert not found, "draw these by l2l_ray.randomness"
