"""Segmenters of published sizes with random weights: the encoders' public config values, written down. No download.

Speed and memory do not depend on the values of weights.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    Dinov2Config,
    DINOv3ViTConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    SwinConfig,
)

from l2l_ray.config import SegmenterConfig
from l2l_ray.segmenter.model import Segmenter

_STAGES = ["stage1", "stage2", "stage3", "stage4"]
WORDS = "the left right cup dog man woman table on of a red blue big small in front behind second from".split()


def backbone_config(name: str) -> PretrainedConfig:
    """Return the config that the hub has under a name."""
    if name == "microsoft/swin-tiny-patch4-window7-224":
        return SwinConfig(image_size=224, window_size=7, out_features=_STAGES)  # type: ignore[call-arg]
    if name == "microsoft/swin-base-patch4-window12-384-in22k":
        return SwinConfig(  # type: ignore[call-arg]
            image_size=384,
            window_size=12,
            embed_dim=128,
            depths=[2, 2, 18, 2],
            num_heads=[4, 8, 16, 32],
            out_features=_STAGES,
        )
    if name == "facebook/dinov2-base":
        return Dinov2Config(image_size=518, patch_size=14)
    if name == "facebook/dinov3-vitb16-pretrain-lvd1689m":
        return DINOv3ViTConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, num_register_tokens=4
        )
    raise KeyError(f"the config values of {name!r} are not written down in {__file__}")


def write_encoders(folder: Path, backbone: PretrainedConfig, text: PretrainedConfig) -> dict[str, str]:
    """Write two encoders without weights; return the fields of a segmenter's section that name them."""
    backbone.save_pretrained(folder / "backbone")
    text.save_pretrained(folder / "text")
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[PAD]", "[UNK]", *WORDS])}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder / "text")
    return {"backbone": str(folder / "backbone"), "text": str(folder / "text")}


def random_segmenter(section: SegmenterConfig, folder: Path) -> Segmenter:
    """Return the segmenter of a preset's section, its encoders those of the hub's size, with random weights."""
    places = write_encoders(folder, backbone_config(section.backbone), BertConfig())
    return Segmenter(section.model_copy(update={**places, "pretrained": False}))
