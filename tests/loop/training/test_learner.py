"""A selector in training: saved, sent and resumed it learns the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from l2l_ray.config import SelectorConfig
from l2l_ray.loop.state.checkpoint import load_train_state, save_train_state
from l2l_ray.loop.training.learner import SelectorLearner
from l2l_ray.loop.training.train import Job

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def _learner(name: str = "l2l") -> SelectorLearner:
    return SelectorLearner(name, SelectorConfig(name=name, group_size=3, update_batch=4), 32, CPU)


def test_a_selector_learns_the_same_after_it_was_saved_or_sent(job: Job, tmp_path: Path) -> None:
    rewards, gradient = job.cross_fitted(), torch.zeros(33)
    learner, resumed, other_rank = _learner(), _learner(), _learner()
    assert learner.update(rewards, None, gradient, 2, seed=0, round_index=-1)["policy/entropy"] > 0
    state: dict[str, object] = {}
    learner.save(tmp_path, state)
    save_train_state(tmp_path / "train_state.pt", state)
    resumed.load(tmp_path, load_train_state(tmp_path / "train_state.pt"))
    other_rank.receive(learner.send())
    sent = {name: value.clone() for name, value in other_rank.send().items()}
    assert all(torch.equal(value, sent[name]) for name, value in learner.send().items())
    expected = learner.update(rewards, None, gradient, 1, seed=0, round_index=0)
    assert resumed.update(rewards, None, gradient, 1, seed=0, round_index=0) == expected
    assert all(torch.equal(value, resumed.send()[name]) for name, value in learner.send().items())
    assert not all(torch.equal(value, sent[name]) for name, value in learner.send().items())


def test_a_rule_learns_nothing(job: Job, tmp_path: Path) -> None:
    rule = _learner("fixed_threshold")
    rewards = job.cross_fitted()
    assert rule.update(rewards, None, torch.zeros(33), 3, 0, 0) == {}
    assert rule.send() == {}
    state: dict[str, object] = {}
    rule.save(tmp_path, state)
    _learner("fixed_threshold").load(tmp_path, state)
