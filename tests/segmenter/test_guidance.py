"""Guidance: region pooling and evidence by hand, and that nothing of an absent prior leaks."""

import pytest
import torch

from l2l_ray.segmenter.guidance import (
    GuidanceEncoder,
    TokenAttention,
    evidence,
    pool_regions,
    prior_signal,
    region_maps,
    resize_map,
)

NUM, WIDTH, TEXT, PHRASE, CHANNELS = 3, 16, 12, 10, (16, 16, 8)


def encoder():
    torch.manual_seed(0)
    return GuidanceEncoder(WIDTH, 4, 2, TEXT, PHRASE, CHANNELS)


def inputs(seed=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.rand(*size, generator=generator)

    pyramid = [draw(NUM, channels, size, size) for channels, size in zip(CHANNELS, (2, 4, 8), strict=True)]
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    return draw(NUM, 5, TEXT), mask, pyramid, draw(NUM, 4, 4) * 4 - 2


def signal(has, seed=2, phrase=True, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    proposal = torch.rand(NUM, 8, 8, generator=generator) * scale
    score = torch.rand(NUM, generator=generator) * scale
    words = torch.rand(NUM, 3, PHRASE, generator=generator) * scale
    tokens = (words, torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])) if phrase else None
    return prior_signal(proposal, score, torch.tensor(has), tokens, PHRASE)


def test_region_maps_of_a_square():
    proposal = torch.zeros(1, 8, 8)
    proposal[0, 3:5, 3:5] = 1
    inside, outside, ring = region_maps(proposal)[0]
    assert torch.equal(inside, proposal[0]) and torch.equal(outside, 1 - proposal[0])
    assert ring.sum() == 4 * 4 - 2 * 2  # radius round(0.08 * 8) = 1
    assert ring[2, 2] == 1 and ring[3, 3] == 0 and ring[1, 1] == 0


def test_pooling_averages_under_each_region_and_an_empty_region_gives_zeros():
    feat = torch.arange(16.0).reshape(1, 1, 4, 4)
    maps = torch.zeros(1, 3, 8, 8)
    maps[0, 0, :2, :2] = 1  # cell (0, 0)
    maps[0, 1, :2, :] = 0.5  # first row, half weights: the same mean as full ones
    assert pool_regions(feat, maps).flatten().tolist() == [0.0, 1.5, 0.0]


def test_resizing_keeps_the_mean_when_shrinking_and_constants_when_growing():
    maps = torch.rand(2, 1, 8, 8)
    assert torch.allclose(resize_map(maps, (4, 4)).mean((2, 3)), maps.mean((2, 3)))
    assert torch.allclose(resize_map(torch.full((1, 1, 2, 2), 0.3), (5, 5)), torch.full((1, 1, 5, 5), 0.3))
    assert resize_map(maps, (8, 8)) is maps


def test_evidence_by_hand():
    proposal = torch.zeros(1, 4, 4)
    proposal[0, 0, :2] = 1  # two cells, top left
    match_logits = torch.full((1, 4, 4), -200.0)
    match_logits[0, 0, 1:3] = 200  # two cells, one of them shared
    prior = prior_signal(proposal, torch.tensor([0.7]), torch.tensor([True]), None, PHRASE)
    score, area, centre_x, centre_y, spread_x, spread_y, inside, outside, iou = evidence(match_logits, prior)[
        0
    ].tolist()
    assert (score, area) == (pytest.approx(0.7), 2 / 16)
    assert (centre_x, centre_y, spread_x, spread_y) == pytest.approx((0.25, 0.125, 0.125, 0.0), abs=1e-6)
    assert (inside, outside, iou) == pytest.approx((1 / 2, 1 / 14, 1 / 3), abs=1e-6)


def test_evidence_of_an_empty_proposal_is_finite():
    prior = prior_signal(torch.zeros(1, 4, 4), torch.zeros(1), torch.tensor([True]), None, PHRASE)
    assert evidence(torch.zeros(1, 4, 4), prior).isfinite().all()


def test_nothing_of_an_absent_prior_leaks():
    module, has = encoder(), [False, True, False]
    first, second = (module(*inputs(), signal(has, seed)) for seed in (2, 3))
    assert torch.equal(first[0], second[0]) and torch.equal(first[2], second[2])
    assert not torch.allclose(first[1], second[1])


def test_an_absent_prior_may_hold_nan_and_gets_no_gradient():
    module = encoder()
    proposal = torch.full((NUM, 8, 8), torch.nan, requires_grad=True)
    score = torch.full((NUM,), torch.nan, requires_grad=True)
    prior = prior_signal(proposal, score, torch.zeros(NUM, dtype=torch.bool), None, PHRASE)
    tokens = module(*inputs(), prior)
    assert tokens.isfinite().all()
    tokens.square().sum().backward()
    assert (proposal.grad == 0).all() and (score.grad == 0).all()
    assert all(p.grad is not None for p in module.parameters())  # data parallel training needs every one


def test_score_proposal_and_phrase_all_matter_when_present():
    module, has = encoder(), [True] * NUM
    base = signal(has)
    tokens = module(*inputs(), base)
    phrase = (base.phrase_BLD, base.phrase_mask)
    for changed in (
        prior_signal(base.proposal, base.score * 0.5, base.has_prior, phrase, PHRASE),
        prior_signal(base.proposal.flip(-1), base.score, base.has_prior, phrase, PHRASE),
        prior_signal(base.proposal, base.score, base.has_prior, (phrase[0] * 2, phrase[1]), PHRASE),
        prior_signal(base.proposal, base.score, base.has_prior, None, PHRASE),
    ):
        assert not torch.allclose(module(*inputs(), changed), tokens, atol=1e-5)


def test_padding_is_never_attended_to():
    module = encoder()
    expression, mask, pyramid, match = inputs()
    prior = signal([True] * NUM)
    spoiled = expression + 100 * (mask == 0)[..., None]
    assert torch.equal(module(expression, mask, pyramid, match, prior), module(spoiled, mask, pyramid, match, prior))
    words = prior.phrase_BLD + 100 * ~prior.phrase_mask[..., None]
    other = prior_signal(prior.proposal, prior.score, prior.has_prior, (words, prior.phrase_mask), PHRASE)
    assert torch.equal(module(expression, mask, pyramid, match, prior), module(expression, mask, pyramid, match, other))


def test_token_attention_over_one_context_token_is_its_value():
    torch.manual_seed(0)
    attention = TokenAttention(8, 2)
    tokens, context = torch.randn(2, 3, 8), torch.randn(2, 1, 8)
    value = attention.key_value(attention.norm_context(context))[..., 8:]
    assert torch.allclose(attention(tokens, context), tokens + attention.out(value), atol=1e-6)
