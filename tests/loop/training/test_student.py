"""The student: what it starts from, what of it is trained, and who gets no gradient."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from l2l_ray.errors import CheckpointError
from l2l_ray.loop.state import visibility
from l2l_ray.loop.state.position import Position
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.training.student import Networks
from l2l_ray.loop.training.train import Job
from l2l_ray.segmenter.losses import segmentation_loss
from l2l_ray.segmenter.model import Segmenter
from tests.loop.training_only import TrainingOnly
from tests.segmenter.test_backbone import dinov3_folder, swin_folder
from tests.whole_run import changed

pytestmark = pytest.mark.usefixtures("one_thread")


def test_networks_start_from_the_seed_and_the_teacher_gets_no_gradient(whole_run: RunFolder, job: Job) -> None:
    config, host = whole_run.config, TrainingOnly(whole_run)
    first, again = (Networks.fresh(config, host) for _ in range(2))
    other = Networks.fresh(changed(config, loop={"seed": 1}), host)
    start = {name: value.clone() for name, value in first.student.state_dict().items()}
    for same in (again.student, first.teacher):
        assert all(torch.equal(value, same.state_dict()[name]) for name, value in start.items())
    assert not all(torch.equal(value, other.student.state_dict()[name]) for name, value in start.items())
    assert not any(parameter.requires_grad for parameter in first.teacher.parameters())
    job.steps.take(first, "burn_in", 0, 0, [0, 1, 2, 3])
    assert all(parameter.grad is None for parameter in first.teacher.parameters())
    assert not all(torch.equal(value, start[name]) for name, value in first.student.state_dict().items())
    # The first step's decay is 0: the teacher is the student.
    teacher = first.teacher.state_dict()
    assert all(torch.equal(value, teacher[name]) for name, value in first.student.state_dict().items())


def test_a_frozen_backbone_is_not_trained(whole_run: RunFolder) -> None:
    frozen = Networks.fresh(changed(whole_run.config, segmenter={"train_backbone": False}), TrainingOnly(whole_run))
    assert not any(parameter.requires_grad for parameter in frozen.student.backbone.parameters())
    trained = {id(p) for group in frozen.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in frozen.student.backbone.parameters()}
    assert trained & {id(p) for p in frozen.student.decoder.parameters()}


def test_a_folder_in_which_other_weights_were_learned_is_refused_by_name(whole_run: RunFolder, tmp_path: Path) -> None:
    host = TrainingOnly(whole_run)
    Networks.fresh(changed(whole_run.config, segmenter={"train_backbone": False}), host).save(tmp_path, Position(None))
    all_learn = Networks.fresh(changed(whole_run.config, segmenter={"train_backbone": True}), host)
    with pytest.raises(
        CheckpointError, match=r"train_state.pt is of other learned weights than this run has: .*env.json"
    ):
        all_learn.load(tmp_path)


def test_a_folder_that_another_node_has_placed_is_waited_for(
    whole_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visibility, "LOOK_AGAIN_S", 0.05)
    networks = Networks.fresh(whole_run.config, TrainingOnly(whole_run))
    late = tmp_path / "base"
    (hidden := tmp_path / "hidden").mkdir()
    networks.save(hidden, Position(None))
    placing = threading.Timer(0.5, hidden.rename, [late])
    placing.start()
    assert not late.exists()
    assert networks.load(late)["optimizer"]
    placing.join()


def test_the_optimiser_goes_on_as_this_device_does_it(whole_run: RunFolder, job: Job, tmp_path: Path) -> None:
    """A state that was saved on a GPU says that AdamW was fused there."""
    networks = Networks.fresh(whole_run.config, TrainingOnly(whole_run))
    job.steps.take(networks, "burn_in", 0, 0, [0, 1, 2, 3])
    networks.save(tmp_path, Position(None, step=1))
    state = torch.load(tmp_path / "train_state.pt", weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = True
    torch.save(state, tmp_path / "train_state.pt")
    (tmp_path / "version.json").unlink()  # its digests are those of the file before
    networks.load(tmp_path)
    assert [group["fused"] for group in networks.optimizer.param_groups] == [None] * len(
        networks.optimizer.param_groups
    )


def _one_pass(student: Segmenter) -> None:
    images, words = torch.rand(2, 3, 64, 64), ["left red circle", "square"]
    proposal, ones = torch.rand(2, student.grid, student.grid), torch.ones(2)
    output = student(images, words, proposal, ones, ones.bool(), phrases=words)
    target = torch.zeros_like(output.mask_logits)
    segmentation_loss(output, target, torch.ones_like(target), 2, dice_weight=0.5, deep_weight=0.4).backward()


@pytest.mark.parametrize("train_backbone", [True, False])
@pytest.mark.parametrize("folder", [swin_folder, dinov3_folder])
def test_what_is_trainable_always_gets_a_gradient(
    tmp_path: Path, whole_run: RunFolder, folder: Callable[[Path], Path], train_backbone: bool
) -> None:
    """A weight that is trainable and unused stops data-parallel training; a frozen random layer never learns."""
    segmenter = {"backbone": str(folder(tmp_path)), "pretrained": False, "train_backbone": train_backbone}
    config = changed(whole_run.config, segmenter={**segmenter, "fusion_stride": 16})
    student = Networks.fresh(config, TrainingOnly(whole_run)).student
    _one_pass(student)
    assert not [name for name, p in student.named_parameters() if p.requires_grad and p.grad is None]
    model = {f"backbone.model.{name}" for name, _ in student.backbone.model.named_parameters()}
    frozen = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert frozen <= model, "levels added to a checkpoint start random, so they must learn"
    assert (frozen == model) is not train_backbone
