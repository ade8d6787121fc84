"""Keyed randomness: known values, independence of batch composition, uniformity."""

import numpy as np
import torch

from l2l_ray.randomness import (
    _GAMMA,
    _mix,
    keyed_bits,
    keyed_permutation,
    keyed_uniform,
    sample_key,
    seed_torch,
    torch_generator,
)


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


def test_mix_is_splitmix64() -> None:
    # First outputs of the published generator started at 0.
    words = _mix(np.arange(1, 4, dtype=np.uint64) * _GAMMA)
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


def test_a_torch_generator_is_a_function_of_its_seed_and_leaves_the_global_one_alone() -> None:
    seed_torch(3)
    expected = torch.rand(4)
    seed_torch(3)
    first, second = (torch.rand(5, generator=torch_generator(8)) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, torch.rand(5, generator=torch_generator(9)))
    assert torch.equal(torch.rand(4), expected)
