"""Backbones: the shipped one, a reduced Swin and a reduced DINOv3 ViT built on the fly, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, Dinov2Config, DINOv3ViTConfig, ResNetConfig, SwinConfig

from l2l_ray.config import SegmenterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.segmenter.backbone import IMAGENET_MEAN, Backbone, SimplePyramid


def swin_folder(tmp_path):
    SwinConfig(
        image_size=64, patch_size=4, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4
    ).save_pretrained(tmp_path / "swin")
    return tmp_path / "swin"


def dinov3_folder(tmp_path):
    DINOv3ViTConfig(
        image_size=64, patch_size=16, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
    ).save_pretrained(tmp_path / "dinov3")
    return tmp_path / "dinov3"


def dinov2_folder(tmp_path):
    Dinov2Config(
        image_size=70, patch_size=14, hidden_size=64, num_hidden_layers=2, num_attention_heads=2
    ).save_pretrained(tmp_path / "dinov2")
    return tmp_path / "dinov2"


def make(folder, image_size=64):
    torch.manual_seed(0)
    return Backbone(SegmenterConfig(backbone=str(folder), pretrained=False, image_size=image_size))


FOLDERS = {"swin": (swin_folder, (4, 8, 16, 32)), "dinov3": (dinov3_folder, (4, 8, 16, 32))}


@pytest.fixture(params=["embedded", "swin", "dinov3"])
def backbone_and_strides(request, tmp_path):
    if request.param == "embedded":
        return Backbone(SegmenterConfig()), (2, 4, 8, 16)
    build, strides = FOLDERS[request.param]
    return make(build(tmp_path)), strides


def test_levels_have_the_stated_channels_and_strides(backbone_and_strides):
    backbone, strides = backbone_and_strides
    assert backbone.strides == strides
    maps = backbone(torch.rand(2, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, 64 // stride, 64 // stride)
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]


def test_a_vit_with_patches_of_14_px_has_a_grid_of_quarter_patches(tmp_path):
    backbone = make(dinov2_folder(tmp_path), image_size=56)
    assert backbone.strides == (3.5, 7, 14, 28)
    maps = backbone(torch.rand(1, 3, 56, 56))
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2]


@pytest.mark.parametrize(("build", "patch", "use"), [(dinov2_folder, 14, 56), (dinov3_folder, 16, 48)])
def test_an_image_that_cuts_a_patch_is_refused_with_the_size_to_use(tmp_path, build, patch, use):
    with pytest.raises(ConfigError, match=rf"multiple of the patch of .*, {patch} px, got 60; use {use}$"):
        make(build(tmp_path), image_size=60)


def test_same_image_gives_same_maps_in_training_mode_and_in_any_batch(backbone_and_strides):
    backbone, _ = backbone_and_strides
    images = torch.rand(3, 3, 64, 64)
    together = backbone.train()(images)
    alone = backbone.eval()(images[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-4)


def test_gradient_reaches_every_used_weight(backbone_and_strides):
    backbone, _ = backbone_and_strides
    sum(m.square().mean() for m in backbone(torch.rand(2, 3, 64, 64))).backward()
    missing = [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen <= {"model.swin.layernorm.weight", "model.swin.layernorm.bias", "model.embeddings.mask_token"}


def test_dropout_of_the_checkpoint_is_switched_off(tmp_path):
    backbone = make(swin_folder(tmp_path))
    assert SwinConfig().drop_path_rate > 0
    assert backbone.model.config.drop_path_rate == 0
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(backbone.train()(images)[-1], backbone.train()(images)[-1])


def test_normalization_comes_from_the_folder_else_imagenet(tmp_path):
    folder = swin_folder(tmp_path)
    assert make(folder).mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    backbone = make(folder)
    assert backbone.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert backbone.std.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "P"}))
    assert make(folder).mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    nested = {"image_processor": {"image_mean": [0.7, 0.6, 0.5], "image_std": [1, 1, 1]}}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    assert make(folder).mean.flatten().tolist() == pytest.approx([0.7, 0.6, 0.5])


def test_pretrained_weights_are_read_from_a_folder(tmp_path):
    first = make(swin_folder(tmp_path))
    first.model.save_pretrained(tmp_path / "swin")
    torch.manual_seed(1)
    second = Backbone(SegmenterConfig(backbone=str(tmp_path / "swin"), image_size=64))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(first(images)[0], second(images)[0])


@pytest.mark.parametrize("pretrained", [True, False])
def test_weights_of_half_precision_are_loaded_in_full(tmp_path, pretrained):
    saved = make(swin_folder(tmp_path)).model.to(torch.bfloat16)
    saved.save_pretrained(tmp_path / "swin")
    backbone = Backbone(SegmenterConfig(backbone=str(tmp_path / "swin"), image_size=64, pretrained=pretrained))
    assert {weight.dtype for weight in backbone.parameters()} == {torch.float32}
    name, weight = next((n, p) for n, p in backbone.model.named_parameters() if p.ndim > 1)
    assert torch.equal(weight, dict(saved.named_parameters())[name].float()) == pretrained


def test_folder_without_the_backbones_weights_is_refused(tmp_path):
    folder = swin_folder(tmp_path)
    save_file({"other.weight": torch.zeros(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks \d+ weights of a SwinBackbone"):
        Backbone(SegmenterConfig(backbone=str(folder), image_size=64))


def test_random_start_differs_from_the_shipped_weights():
    shipped, random = Backbone(SegmenterConfig()), Backbone(SegmenterConfig(pretrained=False))
    name, weight = next((n, p) for n, p in shipped.named_parameters() if p.ndim > 1)
    assert not torch.equal(weight, dict(random.named_parameters())[name])


def test_pyramid_of_an_odd_map_covers_the_whole_image():
    maps = SimplePyramid(32)(torch.rand(1, 32, 5, 5))
    assert [m.shape[-1] for m in maps] == [20, 10, 5, 3]


def test_folder_that_is_no_backbone_is_refused(tmp_path):
    BertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1).save_pretrained(tmp_path / "bert")
    with pytest.raises(ConfigError, match=r"segmenter\.backbone .* cannot be loaded: .* expected a backbone"):
        make(tmp_path / "bert")
    with pytest.raises(ConfigError, match="segmenter.backbone"):
        make(tmp_path / "missing")


def test_batch_norm_is_refused_with_a_remedy(tmp_path):
    ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic").save_pretrained(
        tmp_path / "resnet"
    )
    with pytest.raises(ConfigError, match="BatchNorm.*use ConvNeXt"):
        make(tmp_path / "resnet")
