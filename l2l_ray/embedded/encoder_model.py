"""The tiny encoder before any training, the heads it is trained with, and the layout it ships in.

The architecture is written as transformers configs and a tokenizer first, and then built by the same `Backbone`,
`TextEncoder` and `Fusion` that load it later: the shipped folder is a checkpoint like any other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import AutoTokenizer, BertConfig, ConvNextConfig, PreTrainedTokenizerFast

from l2l_ray.checkpoints import give_usual_mode
from l2l_ray.config import SegmenterConfig
from l2l_ray.embedded.encoder_losses import CELL_CHANNELS
from l2l_ray.segmenter.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from l2l_ray.segmenter.fusion import SHAPE_NAME, WEIGHTS_NAME, Fused, Fusion
from l2l_ray.segmenter.text import TextEncoder, TextTokens

IMAGE_PX = 96
VOCABULARY = 1024
_FINE_WIDTH = 32


def tiny_config(folder: Path, pretrained: bool = False) -> SegmenterConfig:
    """Return the segmenter section that names the encoder in `folder`."""
    return SegmenterConfig(
        backbone=str(folder / "backbone"), text=str(folder / "text"), pretrained=pretrained, image_size=IMAGE_PX
    )


def write_architecture(out: Path, texts: list[str], start: Path | None = None) -> None:
    """Write configs, tokenizer and image-processor config, from which `Backbone` and `TextEncoder` are then built.

    Args:
        out: The folder of the encoder.
        texts: What the tokenizer is made from.
        start: Folder of an earlier encoder whose tokenizer is kept, so that its text encoder can be trained on.
    """
    stages = [f"stage{i}" for i in range(1, 5)]
    ConvNextConfig(  # type: ignore[call-arg]  # out_features is read by its backbone base class
        patch_size=2,
        hidden_sizes=[32, 64, 96, 128],
        depths=[1, 1, 2, 2],
        image_size=IMAGE_PX,
        drop_path_rate=0.0,
        layer_scale_init_value=0.1,  # 1e-6 is for networks ten times as deep and a hundred times the steps
        out_features=stages,
    ).save_pretrained(out / "backbone")
    processor = {
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
        "size": {"height": IMAGE_PX, "width": IMAGE_PX},
    }
    (out / "backbone" / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    tokenizer: Any = (
        train_tokenizer(texts)
        if start is None
        else AutoTokenizer.from_pretrained(start / "text", trust_remote_code=False)
    )
    tokenizer.save_pretrained(out / "text")
    BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=128,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(out / "text")


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a lower-casing byte-level BPE tokenizer: every byte is a token, so nothing is ever unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["[PAD]", "[CLS]", "[SEP]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    wrapper: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = wrapper(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=128
    )
    return wrapped


class Pretraining(nn.Module):
    """The shipped parts and the heads that are thrown away."""

    def __init__(self, config: SegmenterConfig) -> None:
        """Make the parts and the heads."""
        super().__init__()
        self.backbone = Backbone(config)
        self.text = TextEncoder(config)
        self.level = self.backbone.strides.index(config.fusion_stride)
        self.fusion = Fusion(config, self.backbone.channels[self.level], self.text.width)
        channels = self.backbone.channels
        # The finest level gets its signal from (c); a dense head there would cost more than the level itself.
        self.cell_heads = nn.ModuleDict({str(i): nn.Conv2d(channels[i], CELL_CHANNELS, 1) for i in (1, 2, 3)})
        self.fine = _FineHead(channels[: self.level], config.fusion_width)

    def shipped(self) -> dict[str, nn.Module]:
        """Return the parts that are exported."""
        return {"backbone": self.backbone, "text": self.text, "fusion": self.fusion}

    def load_shipped(self, other: Pretraining) -> None:
        """Take over the shipped parts of another one, of the same architecture; the heads stay as they are."""
        for name, part in self.shipped().items():
            part.load_state_dict(other.shipped()[name].state_dict())

    def locate(
        self, maps: tuple[Tensor, ...], tokens: TextTokens, image_index: Tensor
    ) -> tuple[Fused, Float[Tensor, "E G G"]]:
        """Return the fusion of expression e with image `image_index[e]`, and the box-region logits on the fine grid."""
        fused = self.fusion(maps[self.level][image_index], self.text(tokens), tokens.attention_mask)
        return fused, self.fine(fused.feat_BCHW, maps[: self.level], image_index)


class _FineHead(nn.Module):
    """Light decoder: up by two, add the lateral, mix; laterals are computed once per image, not per expression."""

    def __init__(self, channels: tuple[int, ...], fused_width: int) -> None:
        super().__init__()
        self.start = nn.Conv2d(fused_width, _FINE_WIDTH, 1)
        self.laterals = nn.ModuleList(nn.Conv2d(c, _FINE_WIDTH, 1) for c in channels)
        self.mixes = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(1, _FINE_WIDTH), nn.GELU(), nn.Conv2d(_FINE_WIDTH, _FINE_WIDTH, 3, padding=1))
            for _ in channels
        )
        self.last = nn.Sequential(nn.GroupNorm(1, _FINE_WIDTH), nn.GELU(), nn.Conv2d(_FINE_WIDTH, 1, 1))

    def forward(self, fused: Tensor, maps: tuple[Tensor, ...], image_index: Tensor) -> Tensor:
        x = self.start(fused)
        for feat, lateral, mix in list(zip(maps, self.laterals, self.mixes, strict=True))[::-1]:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") + lateral(feat)[image_index]
            x = x + mix(x)
        logits: Tensor = self.last(x)[:, 0].float()
        return logits


def export(model: Pretraining, out: Path) -> None:
    """Write the shipped folder: `backbone/`, `text/`, `fusion.safetensors` and `fusion.json`."""
    model.backbone.model.save_pretrained(out / "backbone")
    model.text.model.save_pretrained(out / "text")
    weights = {name: value.contiguous() for name, value in model.fusion.state_dict().items()}
    save_file(weights, out / WEIGHTS_NAME, metadata={"format": "pt"})
    (out / SHAPE_NAME).write_text(json.dumps(model.fusion.shape, indent=2) + "\n")
    for path in out.rglob("*.safetensors"):
        give_usual_mode(path)
