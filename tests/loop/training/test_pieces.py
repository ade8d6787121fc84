"""A step in pieces is the same step, and memory that runs out halves the pieces."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from l2l_ray.config import LoopConfig
from l2l_ray.errors import ConfigError
from l2l_ray.loop.inference.inputs import Inputs
from l2l_ray.loop.training.pieces import Pieces
from l2l_ray.loop.training.step import TrainBatch, joined, make_optimizer, train_step
from l2l_ray.segmenter.model import Segmenter, SegmenterOutput
from tests.whole_run import single_thread

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = LoopConfig(labeled_batch=4, unlabeled_batch=3, unlabeled_weight=0.7, autocast=False)
Stepped = tuple[dict[str, Tensor], dict[str, float]]
WORDS = ["left red circle", "big blue star", "the ring on the right", "square"]


@pytest.fixture
def student(segmenter: Segmenter) -> Segmenter:
    return copy.deepcopy(segmenter).requires_grad_(True)


@pytest.fixture(scope="module")
def batches(segmenter: Segmenter, inputs_of: Callable[..., Inputs]) -> tuple[TrainBatch, TrainBatch]:
    """Give four labeled samples, and two views of three pseudo-labeled ones."""

    def make(seed: int, words: list[str]) -> TrainBatch:
        inputs = inputs_of(words, segmenter.grid, seed)
        generator = torch.Generator().manual_seed(seed)
        target = (torch.rand(inputs.proposal.shape, generator=generator) > 0.7).float()
        return TrainBatch(inputs, target, torch.rand(inputs.proposal.shape, generator=generator))

    return make(1, WORDS), joined([make(2, WORDS[:3]), make(3, WORDS[:3])])


class Small(nn.Module):
    """A student on a machine whose memory ends at so many samples."""

    def __init__(self, student: Segmenter, limit: int) -> None:
        super().__init__()
        self.student, self.limit = student, limit
        self.seen: list[int] = []

    def forward(self, images: Tensor, *rest: Any) -> SegmenterOutput:
        self.seen.append(len(images))
        if len(images) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")
        output: SegmenterOutput = self.student(images, *rest)
        return output


def _stepped(
    student: Segmenter,
    batches: tuple[TrainBatch, TrainBatch],
    pieces: Pieces | None,
    wrap: Callable[[Segmenter], nn.Module] = lambda student: student,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    student = copy.deepcopy(student)
    optimizer = make_optimizer(student, CONFIG)
    terms = train_step(wrap(student), optimizer, *batches, CONFIG, 0.5, num_views=2, pieces=pieces)
    return {name: p.grad for name, p in student.named_parameters() if p.grad is not None}, terms


def _same(
    found: tuple[dict[str, Tensor], dict[str, float]], expected: tuple[dict[str, Tensor], dict[str, float]]
) -> None:
    assert found[0].keys() == expected[0].keys()
    for name, gradient in expected[0].items():
        torch.testing.assert_close(found[0][name], gradient, atol=1e-5, rtol=1e-3, msg=name)
    assert found[1] == pytest.approx(expected[1], rel=1e-4)


def test_pieces_cover_every_sample_once_and_add_up() -> None:
    values, seen = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), []
    weight = nn.Parameter(torch.tensor(3.0))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.grad = torch.tensor(99.0)  # of an earlier step: it goes

    def losses_of(rows: slice) -> tuple[Tensor, Tensor]:
        seen.append((rows.start, rows.stop))
        loss = weight * values[rows].sum()
        return loss, torch.stack([loss.detach()] * 3)

    total = Pieces(2).sum_of(losses_of, 5, nn.Identity(), optimizer)
    assert seen == [(0, 2), (2, 4), (4, 6)]
    assert total.tolist() == [93.0] * 3 and weight.grad is not None and weight.grad.item() == 31.0


@pytest.fixture(scope="module")
def undivided(segmenter: Segmenter, batches: tuple[TrainBatch, TrainBatch]) -> Stepped:
    """Give gradients and terms of the step without pieces."""
    with single_thread():
        return _stepped(copy.deepcopy(segmenter).requires_grad_(True), batches, None)


@pytest.mark.parametrize("size", [1, 3, 4, 9, 99])
def test_a_step_in_pieces_is_the_undivided_step(
    student: Segmenter, batches: tuple[TrainBatch, TrainBatch], undivided: Stepped, size: int
) -> None:
    assert undivided[1]["loss"] > 0.1 and max(g.abs().max() for g in undivided[0].values()) > 1e-3
    _same(_stepped(student, batches, Pieces(size)), undivided)


def test_where_memory_runs_out_the_pieces_are_halved_for_good(
    student: Segmenter,
    batches: tuple[TrainBatch, TrainBatch],
    undivided: Stepped,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    pieces, small = Pieces(None), Small(student, limit=3)
    _same(_stepped(student, batches, pieces, lambda copied: Small(copied, limit=3)), undivided)
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with 10 samples at once; from here on 5: loop.micro_batch=5 begins so",
        "out of memory with 5 samples at once; from here on 2: loop.micro_batch=2 begins so",
    ]
    train_step(small, make_optimizer(student, CONFIG), *batches, CONFIG, 0.5, num_views=2, pieces=pieces)
    assert small.seen == [2] * 5, "the next step begins with what fitted"


def test_one_sample_that_does_not_fit_is_an_error_with_the_ways_out(
    student: Segmenter, batches: tuple[TrainBatch, TrainBatch]
) -> None:
    with pytest.raises(
        ConfigError, match="one sample does not fit into memory: CUDA out of memory.*image_size"
    ) as told:
        _stepped(student, batches, Pieces(None), lambda copied: Small(copied, limit=0))
    assert "\n" not in str(told.value)


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    student: Segmenter, batches: tuple[TrainBatch, TrainBatch]
) -> None:
    class Broken(nn.Module):
        def forward(self, *inputs: Any) -> None:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        _stepped(student, batches, Pieces(None), lambda copied: Broken())


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_several_ranks_take_pieces_too_and_name_the_setting_where_memory_runs_out(
    one_rank: None, student: Segmenter, batches: tuple[TrainBatch, TrainBatch], undivided: Stepped
) -> None:
    _same(_stepped(student, batches, Pieces(4), DistributedDataParallel), undivided)
    with pytest.raises(ConfigError, match=r"10 samples at once do not fit.*set loop\.micro_batch=5, which changes"):
        _stepped(student, batches, None, lambda copied: DistributedDataParallel(Small(copied, limit=3)))


REAL = """
import resource, sys, torch
from l2l_ray.device import is_out_of_memory
torch.set_num_threads(1)
weight = torch.ones(1, requires_grad=True)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
try:
    (weight * torch.ones(2**28)).sum().backward()
except (RuntimeError, MemoryError) as error:
    sys.exit(0 if is_out_of_memory(error) else f"not seen: {error}")
sys.exit("there was enough")
"""


def test_what_torch_says_on_a_cpu_without_memory_is_understood() -> None:
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
