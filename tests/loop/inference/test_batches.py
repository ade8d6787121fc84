"""Rows go batch by batch, each once and in order, also where memory runs out in between."""

from __future__ import annotations

import logging

import pytest
import torch

from l2l_ray.errors import ConfigError
from l2l_ray.loop.inference.batches import Batches


def test_where_memory_runs_out_batches_are_halved_and_no_row_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[list[int]] = []

    def work(rows: list[int]) -> list[int]:
        tried.append(rows)
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows

    caplog.set_level(logging.WARNING)
    batches = Batches(4)
    assert list(batches.each([5, 6, 7, 8, 9], work)) == [[5, 6], [7, 8], [9]]
    assert tried == [[5, 6, 7, 8], [5, 6], [7, 8], [9]]
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with 4 samples at once; from here on 2: loop.eval_batch=2 begins so"
    ]
    assert list(batches.each([1, 2, 3], work)) == [[1, 2], [3]]


def test_one_row_that_does_not_fit_is_an_error_with_the_ways_out() -> None:
    def work(rows: list[int]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ConfigError, match=r"one sample does not fit into memory: CUDA out.*segmenter\.image_size"):
        list(Batches(4).each([1, 2], work))


def test_another_error_passes() -> None:
    def work(rows: list[int]) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(Batches(4).each([1, 2], work))
