"""Checkpoints of SAM's kin, every width and depth reduced, with random weights, saved to disk as the released ones lie.

Each is loaded again through the same `from_pretrained` path. EdgeTAM is missing: its backbone needs timm.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import save_file

from tests.tiny_models import tiny_sam2

SIDE_PX = 64
_DECODER = {"hidden_size": 32, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_DECODER |= {"iou_head_hidden_dim": 8}
_PROMPT = {"hidden_size": 32, "image_size": SIDE_PX, "patch_size": 16, "mask_input_channels": 4}
_VIT = {"hidden_size": 16, "output_channels": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16}
_VIT |= {"image_size": SIDE_PX, "mlp_dim": 16, "window_size": 2, "num_pos_feats": 16, "global_attn_indexes": [0]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def randomized(model: Any) -> Any:
    """Return a model with weights that matter: with the default ones, every mask would be empty or full."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=2 / math.sqrt(parameter[0].numel()))
        else:
            torch.nn.init.normal_(parameter, mean=float(name.endswith("norm.weight")), std=0.1)
    return model


def sam(folder: Path) -> None:
    config = hf.SamConfig(
        vision_config=hf.SamVisionConfig(**_VIT),
        prompt_encoder_config=hf.SamPromptEncoderConfig(**_PROMPT),
        mask_decoder_config=hf.SamMaskDecoderConfig(**_DECODER),
    )
    randomized(hf.SamModel(config)).save_pretrained(folder)


def sam_hq(folder: Path) -> None:
    config = hf.SamHQConfig(
        vision_config=hf.SamHQVisionConfig(**_VIT),
        prompt_encoder_config=hf.SamHQPromptEncoderConfig(**_PROMPT),
        mask_decoder_config=hf.SamHQMaskDecoderConfig(**_DECODER, vit_dim=16),
    )
    randomized(hf.SamHQModel(config)).save_pretrained(folder)


def sam2(folder: Path) -> None:
    randomized(tiny_sam2()).save_pretrained(folder)


def sam2_video(folder: Path) -> None:
    """As the released SAM 2 lies: with a video model's config."""
    parts = {name: value for name, value in tiny_sam2().config.to_dict().items() if name.endswith("_config")}
    memory = {"memory_attention_hidden_size": 32, "memory_attention_num_layers": 1, "memory_encoder_hidden_size": 32}
    memory |= {"memory_attention_feed_forward_hidden_size": 16, "memory_encoder_output_channels": 8}
    memory |= {"mask_downsampler_embed_dim": 32, "memory_fuser_embed_dim": 32, "memory_fuser_intermediate_dim": 16}
    randomized(hf.Sam2VideoModel(hf.Sam2VideoConfig(**parts, **memory))).save_pretrained(folder)


_SAM3_VISION = {
    "model_type": "sam3_vision_model",
    "backbone_config": {
        "model_type": "sam3_vit_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": SIDE_PX, "patch_size": 16, "window_size": 2,
        "global_attn_indexes": [0], "pretrain_image_size": SIDE_PX,
    },
    "fpn_hidden_size": 32,
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
}  # fmt: skip


def sam3_tracker(folder: Path) -> None:
    config = hf.Sam3TrackerConfig(
        vision_config=_SAM3_VISION,
        prompt_encoder_config=_PROMPT,
        mask_decoder_config=_DECODER,
    )
    randomized(hf.Sam3TrackerModel(config)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(HALF))


def sam3_video(folder: Path) -> None:
    """As the released SAM 3 lies: detector and tracker in one, with one image encoder for both."""
    small = {"hidden_size": 32, "num_attention_heads": 2}
    layers = {**small, "intermediate_size": 16, "num_layers": 1}
    text = {"model_type": "clip_text_model", **small, "intermediate_size": 16, "num_hidden_layers": 1}
    detector = {
        "model_type": "sam3",
        "vision_config": _SAM3_VISION,
        "text_config": {**text, "vocab_size": 16, "projection_dim": 16, "max_position_embeddings": 8},
        "geometry_encoder_config": layers,
        "detr_encoder_config": layers,
        "detr_decoder_config": {**layers, "num_queries": 2},
        "mask_decoder_config": small,
    }
    tracker = {
        "model_type": "sam3_tracker_video",
        "image_size": SIDE_PX,
        "vision_config": _SAM3_VISION,
        "prompt_encoder_config": _PROMPT,
        "mask_decoder_config": _DECODER,
        "memory_attention_hidden_size": 32,
        "memory_attention_num_layers": 1,
        "memory_encoder_hidden_size": 32,
        "memory_attention_feed_forward_hidden_size": 16,
        "memory_encoder_output_channels": 8,
        "mask_downsampler_embed_dim": 32,
        "memory_fuser_embed_dim": 32,
        "memory_fuser_intermediate_dim": 16,
        "memory_attention_rope_feat_sizes": [4, 4],
    }
    config = hf.Sam3VideoConfig(detector_config=detector, tracker_config=tracker)
    model = randomized(hf.Sam3VideoModel(config))
    model.save_pretrained(folder)
    # transformers 5.23 writes names with the tracker's prefix twice; the released file has those of the model.
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    (folder / "preprocessor_config.json").write_text(json.dumps(HALF))


SAMS: dict[str, Callable[[Path], None]] = {
    make.__name__: make for make in (sam, sam_hq, sam2, sam2_video, sam3_tracker, sam3_video)
}
