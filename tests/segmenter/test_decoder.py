"""Decoder: it starts from the matching, self-evolves as stated, and never sees an absent prior."""

import pytest
import torch
import torch.nn.functional as F

from l2l_ray.segmenter.decoder import (
    Decoder,
    PixelAttention,
    ProposalEmbedding,
    Pyramid,
    group_norm,
    level_channels,
)
from l2l_ray.segmenter.guidance import prior_signal

NUM, WIDTH, CHANNELS, SIZES = 3, 32, (32, 16, 16), (4, 8, 16)


def decoder(self_evolve=True):
    torch.manual_seed(0)
    return Decoder(CHANNELS, WIDTH, 4, self_evolve)


def inputs():
    generator = torch.Generator().manual_seed(1)
    pyramid = [
        torch.randn(NUM, channels, size, size, generator=generator)
        for channels, size in zip(CHANNELS, SIZES, strict=True)
    ]
    return pyramid, torch.randn(NUM, 4, 4, generator=generator), torch.randn(NUM, 5, WIDTH, generator=generator)


def signal(has=True, proposal=None, seed=2):
    if proposal is None:
        proposal = torch.rand(NUM, 16, 16, generator=torch.Generator().manual_seed(seed))
    return prior_signal(proposal, torch.ones(NUM), torch.full((NUM,), has), None, 8)


def test_channels_halve_down_to_a_floor():
    assert level_channels(96, 3, 4) == [96, 48, 32]
    assert level_channels(256, 3, 8) == [256, 128, 64]
    assert level_channels(16, 3, 4) == [16, 16, 16]
    assert level_channels(96, 2, 6) == [96, 48]


@pytest.mark.parametrize(("channels", "groups"), [(96, 6), (32, 2), (24, 1)])
def test_groups_hold_sixteen_channels_or_all(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_pyramid_adds_fused_map_and_coarser_context_at_the_fusion_level():
    torch.manual_seed(0)
    pyramid = Pyramid((4, 8, 8, 12), 2, 10, (32, 16, 16))
    levels = [torch.randn(2, c, s, s) for c, s in zip((4, 8, 8, 12), (16, 8, 4, 2), strict=True)]
    fused = torch.randn(2, 10, 4, 4)
    maps = pyramid(levels, fused)
    assert [tuple(m.shape[1:]) for m in maps] == [(32, 2, 2), (32, 4, 4), (16, 8, 8), (16, 16, 16)]
    assert list(pyramid.channels) == [32, 32, 16, 16] and pyramid.num_coarser == 1
    context = F.interpolate(maps[0], size=(4, 4), mode="bilinear", align_corners=False)
    assert torch.allclose(maps[1], pyramid.laterals[1](levels[2]) + pyramid.fused(fused) + context, atol=1e-6)


def test_folded_pixel_attention_equals_plain_attention():
    torch.manual_seed(0)
    attention = PixelAttention(8, 12, 2)
    feat, query, tokens = torch.randn(2, 8, 3, 3), torch.randn(2, 8, 3, 3), torch.randn(2, 5, 12)
    normed = attention.norm_tokens(tokens)
    pixels = query.flatten(2).transpose(1, 2)
    expected = feat.flatten(2).transpose(1, 2)
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        key, value = attention.key(normed)[..., part], attention.value(normed)[..., part]
        expected = expected + F.scaled_dot_product_attention(pixels, key, value)
    assert torch.allclose(attention(feat, query, tokens).flatten(2).transpose(1, 2), expected, atol=1e-5)


def test_proposal_embedding_by_hand():
    embedding = ProposalEmbedding(2, can_be_absent=True)
    with torch.no_grad():
        embedding.weight.copy_(torch.tensor([1.0, -2.0]).view(2, 1, 1))
        embedding.absent.copy_(torch.tensor([5.0, 7.0]).view(2, 1, 1))
    added = embedding(torch.zeros(2, 2, 1, 1), torch.tensor([[[0.75]], [[0.75]]]), torch.tensor([True, False]))
    assert added.flatten().tolist() == [0.5, -1.0, 5.0, 7.0]


def test_levels_run_coarse_to_fine_and_start_from_the_matching():
    module, (pyramid, match, tokens) = decoder(), inputs()
    with torch.no_grad():
        for head in (*module.heads, module.last_layer):
            head.weight.zero_()
    output = module(pyramid, match, tokens, signal())
    assert [tuple(level.shape[1:]) for level in output.level_logits] == [(4, 4), (4, 4), (8, 8)]
    assert torch.allclose(output.level_logits[0], match)
    upsampled = match[:, None]
    for size in SIZES:
        upsampled = F.interpolate(upsampled, size=(size, size), mode="bilinear", align_corners=False)
    assert torch.allclose(output.mask_logits, upsampled[:, 0], atol=1e-6)


@pytest.mark.parametrize("self_evolve", [True, False])
def test_nothing_of_an_absent_prior_leaks(self_evolve):
    module, arguments = decoder(self_evolve), inputs()
    with torch.no_grad():
        module.trust.bias.fill_(3.0)
    proposal = torch.rand(NUM, 16, 16, requires_grad=True)
    output = module(*arguments, signal(False, proposal))
    assert torch.equal(output.mask_logits, module(*arguments, signal(False, seed=5)).mask_logits)
    output.mask_logits.sum().backward()
    assert (proposal.grad == 0).all()


def test_trust_adds_the_proposal_to_the_first_logits_and_can_turn_against_it():
    module, arguments = decoder(), inputs()
    proposal = torch.zeros(NUM, 16, 16)
    proposal[:, :8, :8] = 1

    def contrast(trust):
        with torch.no_grad():
            module.trust.bias.fill_(trust)
        logits = module(*arguments, signal(True, proposal)).mask_logits
        return (logits[:, :8, :8].mean() - logits[:, 8:, 8:].mean()).item()

    assert contrast(4.0) - contrast(0.0) == pytest.approx(8, abs=1.5)
    assert contrast(-4.0) - contrast(0.0) == pytest.approx(-8, abs=1.5)


def test_later_levels_read_the_prediction_if_it_self_evolves_else_the_proposal():
    arguments = inputs()
    for self_evolve in (True, False):
        module = decoder(self_evolve)
        seen = []
        for level in module.levels:
            level.proposal.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[1]))
        output = module(*arguments, signal())
        first = F.adaptive_avg_pool2d(signal().proposal, 4)
        assert torch.allclose(seen[0], first)
        predicted = F.interpolate(output.level_logits[1][:, None], scale_factor=2, mode="bilinear")[:, 0].sigmoid()
        expected = predicted if self_evolve else F.adaptive_avg_pool2d(signal().proposal, 8)
        assert torch.allclose(seen[1], expected, atol=1e-6)
        assert not seen[1].requires_grad
        assert len(module.updates) == (2 if self_evolve else 0)


@pytest.mark.parametrize("self_evolve", [True, False])
@pytest.mark.parametrize("has", [True, False])
def test_every_parameter_is_in_the_graph(self_evolve, has):
    module = decoder(self_evolve)
    output = module(*inputs(), signal(has))
    (output.mask_logits.square().sum() + sum(level.square().sum() for level in output.level_logits)).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


def test_logits_stay_float32_under_autocast():
    module, arguments = decoder(), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        output = module(*arguments, signal())
    for tensor in (output.mask_logits, *output.level_logits):
        assert tensor.dtype == torch.float32
    assert torch.allclose(output.mask_logits, module(*arguments, signal()).mask_logits, atol=0.1)
