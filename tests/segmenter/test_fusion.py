"""Fusion: any grid, padding and neighbours without effect, gradients both ways, weights only where they fit."""

import math

import pytest
import torch
import torch.nn.functional as F

from l2l_ray.config import SegmenterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.segmenter.backbone import ENCODER_DIR, Backbone
from l2l_ray.segmenter.fusion import Fusion, position_embedding
from l2l_ray.segmenter.text import TextEncoder

CONFIG = SegmenterConfig(pretrained=False, fusion_width=32, fusion_layers=2)


def make(config=CONFIG, image_channels=12, text_width=20):
    torch.manual_seed(0)
    return Fusion(config, image_channels, text_width)


def inputs(height=4, width=4, batch=2, length=5):
    generator = torch.Generator().manual_seed(1)
    feat = torch.randn(batch, 12, height, width, generator=generator)
    tokens = torch.randn(batch, length, 20, generator=generator)
    return feat, tokens, torch.ones(batch, length, dtype=torch.long)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 9), (1, 1), (30, 30)])
def test_any_grid_size(height, width):
    fused = make()(*inputs(height, width))
    assert fused.feat_BCHW.shape == (2, 32, height, width)
    assert fused.tokens_BLD.shape == (2, 5, 32)
    assert fused.match_logits_BHW.shape == (2, height, width)


def test_padding_changes_neither_cells_nor_words():
    fusion = make()
    feat, tokens, mask = inputs()
    plain = fusion(feat, tokens, mask)
    padded = fusion(feat, torch.cat([tokens, torch.full((2, 3, 20), 50.0)], 1), F.pad(mask, (0, 3)))
    torch.testing.assert_close(padded.feat_BCHW, plain.feat_BCHW, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded.tokens_BLD[:, :5], plain.tokens_BLD, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded.match_logits_BHW, plain.match_logits_BHW, rtol=1e-4, atol=1e-5)


def test_samples_do_not_see_one_another():
    fusion = make()
    feat, tokens, mask = inputs()
    both, second = fusion(feat, tokens, mask), fusion(feat[1:], tokens[1:], mask[1:])
    torch.testing.assert_close(both.match_logits_BHW[1:], second.match_logits_BHW, rtol=1e-4, atol=1e-5)


def test_cells_depend_on_words_and_words_on_cells():
    fusion = make()
    feat, tokens, mask = (x.requires_grad_() if x.is_floating_point() else x for x in inputs())
    fused = fusion(feat, tokens, mask)
    grad = torch.autograd.grad(fused.feat_BCHW.square().sum(), tokens, retain_graph=True)[0]
    assert (grad.abs().sum((1, 2)) > 0).all()
    grad = torch.autograd.grad(fused.tokens_BLD.square().sum(), feat)[0]
    assert (grad.abs().sum((1, 2, 3)) > 0).all()


def test_every_weight_gets_a_gradient_from_the_match_logits():
    fusion = make()
    fusion(*inputs()).match_logits_BHW.square().mean().backward()
    assert [name for name, p in fusion.named_parameters() if p.grad is None] == []


def test_position_embedding_by_hand():
    grid = position_embedding(1, 2, 8, torch.device("cpu"))
    assert grid.shape == (2, 8)
    # Row centre 1/2; two frequencies, 0.5 and 8 turns per image: sin(pi/2), sin(8 pi), cos(pi/2), cos(8 pi).
    torch.testing.assert_close(grid[0, :4], torch.tensor([1.0, 0.0, 0.0, 1.0]), rtol=0, atol=1e-5)
    # Column centre 1/4 of the first cell, lowest frequency.
    assert grid[0, 4].item() == pytest.approx(math.sin(math.pi / 4), abs=1e-5)


def test_positions_of_a_finer_grid_average_to_the_coarse_one_s_neighbourhood():
    coarse = position_embedding(4, 4, 32, torch.device("cpu")).view(4, 4, 32)
    fine = position_embedding(12, 12, 32, torch.device("cpu")).view(12, 12, 32)
    torch.testing.assert_close(fine[1::3, 1::3], coarse, rtol=0, atol=1e-4)


def test_width_that_does_not_split_is_refused():
    with pytest.raises(ConfigError, match="multiple of 4 x num_heads = 16, got 40"):
        make(SegmenterConfig(pretrained=False, fusion_width=40))


def test_shipped_weights_are_loaded_by_default_and_checked():
    config = SegmenterConfig()
    backbone, text = Backbone(config), TextEncoder(config)
    channels = backbone.channels[backbone.strides.index(config.fusion_stride)]
    first, second = (make(config, channels, text.width) for _ in range(2))
    torch.manual_seed(5)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    random = make(SegmenterConfig(pretrained=False), channels, text.width)
    assert not torch.equal(random.state_dict()["image_in.weight"], first.state_dict()["image_in.weight"])
    with pytest.raises(ConfigError, match="fusion_layers got 2, expected 4"):
        make(SegmenterConfig(fusion_layers=2), channels, text.width)


def test_shipped_folder_is_small():
    size_b = sum(path.stat().st_size for path in ENCODER_DIR.rglob("*") if path.is_file())
    assert size_b < 10 * 2**20
