"""Version folders: weights and optimiser state come back exactly, and what does not fit is named."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from l2l_ray.errors import CheckpointError
from l2l_ray.loop.state.checkpoint import load_train_state, load_weights, save_train_state, save_weights
from l2l_ray.loop.state.version_record import read_position
from tests.whole_run import FullDisk


class Tied(nn.Module):
    """A module with an embedding shared by its output layer, as text models have."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.output = nn.Linear(4, 7, bias=False)
        self.output.weight = self.embedding.weight


def _net(width: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, 2))


def test_weights_come_back_exactly(tmp_path: Path) -> None:
    written, other = _net(), _net()
    save_weights(written, tmp_path / "net.safetensors")
    load_weights(other, tmp_path / "net.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(written.parameters(), other.parameters(), strict=True))


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    written, other = Tied(), Tied()
    save_weights(written, tmp_path / "tied.safetensors")
    assert list(load_file(tmp_path / "tied.safetensors")) == ["embedding.weight"]
    load_weights(other, tmp_path / "tied.safetensors")
    assert torch.equal(other.output.weight, written.output.weight)
    assert other.output.weight is other.embedding.weight


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_weights_can_be_read_by_whom_the_umask_lets_read(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        for _ in range(2):  # new, and in the place of an earlier one
            save_weights(_net(), tmp_path / "net.safetensors")
            assert (tmp_path / "net.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask
    finally:
        os.umask(before)
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_module_without_tensors_round_trips(tmp_path: Path) -> None:
    save_weights(nn.Identity(), tmp_path / "rule.safetensors")
    load_weights(nn.Identity(), tmp_path / "rule.safetensors")


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    save_weights(_net(), tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"missing \['weight', 'bias'\], unexpected \['0\.bias'"):
        load_weights(nn.Linear(3, 5), tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"net\.safetensors does not fit this model: .*\[5, 3\].*\[6, 3\]"):
        load_weights(_net(6), tmp_path / "net.safetensors")


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"])
def test_missing_or_damaged_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    for name in ("net.safetensors", "train_state.pt", "version.json"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        load_weights(_net(), tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot read .*train_state\.pt"):
        load_train_state(tmp_path / "train_state.pt")
    with pytest.raises(CheckpointError, match="is not a whole version"):
        read_position(tmp_path)


def test_a_truncated_training_state_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train_state.pt"
    save_train_state(path, {"x": torch.arange(100)})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="cannot read training state"):
        load_train_state(path)


def _steps(net: nn.Module, optimizer: torch.optim.Optimizer, num: int) -> list[float]:
    losses = []
    for step in range(num):
        loss = (net(torch.full((4, 3), 0.1 * step)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_continues_with_the_same_losses(tmp_path: Path) -> None:
    net = _net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    _steps(net, optimizer, 3)
    save_weights(net, tmp_path / "student.safetensors")
    save_train_state(tmp_path / "train_state.pt", {"optimizer": copy.deepcopy(optimizer.state_dict())})
    expected = _steps(net, optimizer, 3)

    resumed = _net()
    again = torch.optim.AdamW(resumed.parameters(), lr=0.5)
    load_weights(resumed, tmp_path / "student.safetensors")
    again.load_state_dict(load_train_state(tmp_path / "train_state.pt")["optimizer"])
    assert _steps(resumed, again, 3) == expected


def test_a_state_that_a_gpu_wrote_is_read_on_the_cpu_and_moved_by_the_optimiser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = _net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    _steps(net, optimizer, 1)
    with monkeypatch.context() as patch:  # the file then says of each tensor what a GPU's would
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        save_train_state(tmp_path / "train_state.pt", {"optimizer": optimizer.state_dict()})
    state = load_train_state(tmp_path / "train_state.pt")["optimizer"]
    assert {value.device.type for moments in state["state"].values() for value in moments.values()} == {"cpu"}
    elsewhere = torch.optim.AdamW(_net().to("meta").parameters(), lr=0.01)
    elsewhere.load_state_dict(state)
    assert {moments["exp_avg"].device.type for moments in elsewhere.state.values()} == {"meta"}


def test_a_full_disk_is_a_clear_error(tmp_path: Path, full_disk: FullDisk) -> None:
    with full_disk(10):
        with pytest.raises(CheckpointError, match=r"cannot write .*net\.safetensors: .*free some space .*--resume"):
            save_weights(_net(), tmp_path / "net.safetensors")
        with pytest.raises(CheckpointError, match=r"cannot write .*train_state\.pt: .*--resume"):
            save_train_state(tmp_path / "train_state.pt", {"x": torch.arange(100)})
