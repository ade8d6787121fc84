from __future__ import annotations

import pytest
import torch

from l2l_ray.config import RewardConfig, SelectorConfig
from l2l_ray.errors import DataError
from l2l_ray.selector.rules import LogisticControl, Selector, make_selector, pwa_weight
from l2l_ray.selector.state import STATE_CHANNELS
from l2l_ray.types import Action

RULES = ("supervised", "accept_all", "fixed_threshold", "pwa", "matching", "agreement")
ALL = ("l2l", *RULES, "logistic")


def select(name, evidence, **fields):
    selector = make_selector(SelectorConfig(name=name, **fields), evidence.features.shape[1])
    return selector.select(evidence, list(range(len(evidence.mask_probs))))


@pytest.mark.parametrize("name", ALL)
class TestContract:
    def test_is_a_selector(self, name):
        selector = make_selector(SelectorConfig(name=name), 8)
        assert isinstance(selector, Selector) and selector.name == name

    def test_selection_is_consistent(self, name, bandit):
        evidence, _ = bandit(5, seed=1)
        selection = select(name, evidence)
        assert selection.action.shape == selection.target.shape == selection.pixel_weight.shape == (5, 16, 16)
        assert selection.action.dtype == torch.int8 and selection.target.dtype == torch.bool
        for values in (selection.pixel_weight, selection.gate, selection.confidence):
            assert values.dtype == torch.float32 and values.min() >= 0 and values.max() <= 1
        assert (selection.pixel_weight[selection.action == Action.IGNORE] == 0).all()
        teacher, prior = selection.action == Action.TEACHER, selection.action == Action.PRIOR
        assert torch.equal(selection.target[teacher], (evidence.mask_probs > 0.5)[teacher])
        assert torch.equal(selection.target[prior], (evidence.proposal > 0.5)[prior])
        assert not selection.pixel_weight.requires_grad

    def test_rows_are_independent(self, name, bandit, rows_of):
        evidence, _ = bandit(5, seed=2)
        whole, part = select(name, evidence), select(name, rows_of(evidence, [4, 1]))
        assert torch.equal(whole.action[[4, 1]], part.action)
        assert torch.allclose(whole.confidence[[4, 1]], part.confidence, atol=1e-6)

    def test_ranking_is_bounded(self, name, bandit):
        evidence, _ = bandit(3, seed=3)
        score, label = make_selector(SelectorConfig(name=name), 8).ranking(evidence)
        assert score.shape == label.shape == (3, 16, 16) and label.dtype == torch.bool
        assert score.min() >= 0 and score.max() <= 1

    def test_keys_are_checked(self, name, bandit):
        evidence, _ = bandit(2)
        with pytest.raises(DataError, match="one key per sample"):
            make_selector(SelectorConfig(name=name), 8).select(evidence, [1, 2, 3])

    def test_an_unneeded_view_is_not_read(self, name, bandit):
        selector = make_selector(SelectorConfig(name=name), 8)
        if selector.needs_full_evidence:
            return
        evidence, _ = bandit(4, seed=4)
        other = type(evidence)(**{
            **vars(evidence),
            **{f"mask_probs_{v}": torch.rand(4, 16, 16) for v in ("unguided", "flipped", "perturbed", "previous")},
            "features": torch.rand(4, 8, 16, 16),
        })  # fmt: skip
        assert torch.equal(selector.select(evidence, range(4)).action, selector.select(other, range(4)).action)


@pytest.mark.parametrize("name", RULES)
def test_rules_have_no_parameters(name):
    assert not make_selector(SelectorConfig(name=name), 8).state_dict()


def test_supervised_believes_nothing(bandit):
    selection = select("supervised", bandit(3)[0])
    assert (selection.action == Action.IGNORE).all() and (selection.gate == 0).all()
    assert (selection.confidence == 0).all()


def test_accept_all_takes_every_teacher_label(views_of):
    selection = select("accept_all", views_of(torch.tensor([[[0.9, 0.2], [0.4, 0.6]]])))
    assert (selection.action == Action.TEACHER).all() and (selection.pixel_weight == 1).all()
    assert selection.target.tolist() == [[[True, False], [False, True]]]
    assert selection.confidence.item() == pytest.approx((0.9 + 0.8 + 0.6 + 0.6) / 4)


def test_fixed_threshold_cuts_on_both_sides(views_of):
    evidence = views_of(torch.tensor([[[0.96, 0.94], [0.04, 0.06]]]))
    assert select("fixed_threshold", evidence, threshold=0.95).action.tolist() == [[[1, 0], [1, 0]]]


def test_pwa_weights_are_those_of_semires():
    assert pwa_weight(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0.9386, 0.0384, 0.9386], abs=1e-4)
    rising = pwa_weight(torch.linspace(0.5, 1, 11))
    assert (rising.diff() > 0).all()


def test_pwa_uses_every_cell(views_of):
    selection = select("pwa", views_of(torch.tensor([[[0.5, 1.0], [0.0, 0.9]]])))
    assert (selection.action == Action.TEACHER).all()
    assert selection.pixel_weight[0, 0].tolist() == pytest.approx([0.0384, 0.9386], abs=1e-4)


def test_matching_takes_the_whole_candidate_or_falls_back(views_of):
    guided = torch.tensor([[[0.9, 0.9], [0.9, 0.1]]]).repeat(4, 1, 1)
    near = torch.tensor([[0.9, 0.9], [0.1, 0.1]])  # IoU 2/3
    far = torch.tensor([[0.1, 0.1], [0.9, 0.9]])  # IoU 1/4
    has_prior = torch.tensor([True, True, False, True])
    evidence = views_of(guided, proposal=torch.stack((near, far, near, 0 * near)), has_prior=has_prior)
    selection = select("matching", evidence, match_iou=0.5)
    assert (selection.action[0] == Action.PRIOR).all() and (selection.pixel_weight[0] == 1).all()
    assert selection.target[0].tolist() == [[True, True], [False, False]]
    for row in (1, 2, 3):
        assert (selection.action[row] == Action.TEACHER).all()
        assert torch.allclose(selection.pixel_weight[row], pwa_weight(guided[row]))
    assert (select("matching", evidence, match_iou=0.7).action == Action.TEACHER).all()


def test_agreement_by_hand(views_of):
    guided = torch.tensor([[[0.9, 0.9, 0.1], [0.9, 0.1, 0.1], [0.1, 0.1, 0.1]]]).repeat(3, 1, 1)
    unguided = torch.tensor([[[0.6, 0.6, 0.4], [0.4, 0.4, 0.4], [0.4, 0.4, 0.6]]]).repeat(3, 1, 1)  # IoU 2/4
    unguided[2] = 0.1
    proposal = torch.tensor([[[0.9, 0.1, 0.9], [0.9, 0.9, 0.9], [0.1, 0.1, 0.1]]]).repeat(3, 1, 1)
    has_prior = torch.tensor([True, False, True])
    selection = select("agreement", views_of(guided, unguided=unguided, proposal=proposal, has_prior=has_prior))
    assert selection.gate.tolist() == [1, 0, 0]
    # outside the proposal; labels differ at [1,0] and [2,2]; background inside the box is fine
    assert selection.action[0].tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 0]]
    assert (selection.action[1:] == Action.IGNORE).all()


def test_control_follows_its_probability(views_of):
    control = LogisticControl(SelectorConfig(name="logistic", reward=RewardConfig(wrong_cost=2.0)), 3)
    assert control.accept_prob == pytest.approx(2 / 3)
    guided = torch.tensor([[[0.9, 0.1], [0.9, 0.1]]])
    evidence = views_of(guided, proposal=torch.tensor([[[0.9, 0.9], [0.1, 0.1]]]))
    assert (control.select(evidence, [0]).action == Action.IGNORE).all()  # undecided
    torch.nn.init.constant_(control.pixel.bias, 1.0)
    assert (control.select(evidence, [0]).action == Action.TEACHER).all()
    torch.nn.init.constant_(control.pixel.bias, -1.0)
    selection = control.select(evidence, [0])  # surely wrong: the prior's label where it is another one
    assert selection.action.tolist() == [[[0, 2], [2, 0]]]
    assert selection.confidence.item() == pytest.approx(1 / (1 + 2.718281828**-4), abs=1e-4)


@pytest.mark.parametrize(("bias", "action"), [(0.1, 1), (-0.1, 2)])
def test_where_a_wrong_cell_costs_little_the_control_still_takes_the_likelier_label(views_of, bias, action):
    control = LogisticControl(SelectorConfig(name="logistic", reward=RewardConfig(wrong_cost=0.5)), 3)
    torch.nn.init.constant_(control.pixel.bias, bias)
    guided = torch.tensor([[[0.9, 0.1], [0.1, 0.9]]])
    evidence = views_of(guided, proposal=1 - guided)
    selection = control.select(evidence, [0])
    assert (selection.action == action).all()
    assert torch.equal(selection.target, control.ranking(evidence)[1])


def test_the_control_leaves_out_a_sample_whose_object_is_doubtful(views_of):
    control = LogisticControl(SelectorConfig(name="logistic", reward=RewardConfig(wrong_cost=2.0)), 3)
    torch.nn.init.constant_(control.pixel.weight[:, STATE_CHANNELS.index("guided")], -1.0)  # background is right
    evidence = views_of(torch.tensor([[[0.9, 0.01], [0.9, 0.01]], [[0.01, 0.01], [0.01, 0.01]]]))
    selection = control.select(evidence, [0, 1])
    assert selection.gate.tolist() == [0, 0]
    torch.nn.init.constant_(control.pixel.weight[:, STATE_CHANNELS.index("guided")], 1.0)  # objects are right
    selection = control.select(evidence, [0, 1])
    assert selection.gate.tolist() == [1, 0] and selection.action[0].tolist() == [[1, 0], [1, 0]]
