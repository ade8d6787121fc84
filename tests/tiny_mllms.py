"""Checkpoints of the MLLM and detector families, every width and depth reduced, with random weights, saved to disk.

Each is loaded again through the same `from_pretrained` path as the full-size ones. Tokenizers are the embedded one with
the family's special tokens, since vocabularies of the families cannot be had offline.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from l2l_ray.prior.mllm import EMBEDDED_FOLDER
from tests.tiny_models import save_bert

CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endfor %}\n"
)
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}


def _tokenizer(**special: str) -> Any:
    """Return the embedded tokenizer with special tokens: attribute of the tokenizer -> text."""
    return hf.AutoTokenizer.from_pretrained(EMBEDDED_FOLDER, extra_special_tokens=special or None)


def _save(folder: Path, model: Any, tokenizer: Any, image_processor: dict[str, Any], chat: str = "") -> None:
    model.generation_config = hf.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if chat:
        (folder / "chat_template.jinja").write_text(chat)
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processor))


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
    return {"vocab_size": len(tokenizer), "rope_parameters": rope, **SMALL, **HEADS, **more}


QWEN_IMAGES = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 3136, "longest_edge": 65536},
}


def qwen2(folder: Path) -> None:
    tokenizer = _tokenizer()
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 14, "mlp_ratio": 1}
    text = _text(tokenizer)
    config = hf.Qwen2VLConfig(text_config=text, vision_config=vision, **_qwen_ids(tokenizer))
    _save(folder, hf.Qwen2VLForConditionalGeneration(config), tokenizer, {**QWEN_IMAGES, "patch_size": 14})


def qwen2_5(folder: Path) -> None:
    tokenizer = _tokenizer()
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 14}
    vision |= {"out_hidden_size": 32, "fullatt_block_indexes": [0]}
    config = hf.Qwen2_5_VLConfig(text_config=_text(tokenizer), vision_config=vision, **_qwen_ids(tokenizer))
    _save(folder, hf.Qwen2_5_VLForConditionalGeneration(config), tokenizer, {**QWEN_IMAGES, "patch_size": 14})


def _vision3(**more: Any) -> dict[str, Any]:
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 16}
    return {**vision, "out_hidden_size": 32, "num_position_embeddings": 16, **more}


def qwen3(folder: Path) -> None:
    tokenizer = _tokenizer()
    text, vision = _text(tokenizer, head_dim=16), _vision3(deepstack_visual_indexes=[0])
    config = hf.Qwen3VLConfig(text_config=text, vision_config=vision, **_qwen_ids(tokenizer))
    _save(folder, hf.Qwen3VLForConditionalGeneration(config), tokenizer, {**QWEN_IMAGES, "patch_size": 16})


def qwen3_moe(folder: Path) -> None:
    tokenizer = _tokenizer()
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    text, vision = _text(tokenizer, head_dim=16, **experts), _vision3(deepstack_visual_indexes=[0])
    config = hf.Qwen3VLMoeConfig(text_config=text, vision_config=vision, **_qwen_ids(tokenizer))
    _save(folder, hf.Qwen3VLMoeForConditionalGeneration(config), tokenizer, {**QWEN_IMAGES, "patch_size": 16})


def qwen3_5(folder: Path) -> None:
    tokenizer = _tokenizer()
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8}
    linear |= {"linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}
    text = _text(tokenizer, head_dim=16, **linear) | {"num_hidden_layers": 2}
    config = hf.Qwen3_5Config(text_config=text, vision_config=_vision3(), **_qwen_ids(tokenizer))
    _save(folder, hf.Qwen3_5ForConditionalGeneration(config), tokenizer, {**QWEN_IMAGES, "patch_size": 16})


def qwen4(folder: Path) -> None:
    tokenizer = _tokenizer()
    text = _text(tokenizer, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    text |= {"shared_expert_intermediate_size": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 2}
    text |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "ngram_vocab_size_base": 64, "hc_lowrank": 4}
    text |= {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 64}
    text |= {"indexer_compress_ratio": 4}
    text |= {"hc_count": 2, "num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
    config = hf.Qwen4ExpConfig(text_config=text, vision_config=_vision3(), **_qwen_ids(tokenizer))
    _save(folder, hf.Qwen4ExpForConditionalGeneration(config), tokenizer, {**QWEN_IMAGES, "patch_size": 16})


def internvl(folder: Path) -> None:
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = _tokenizer(**marks, video_token="<video>")
    vision = {"image_size": 28, "patch_size": 14, **SMALL, "num_attention_heads": 2}
    text = {"model_type": "qwen2", "vocab_size": len(tokenizer), **SMALL, **HEADS}
    config = hf.InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=1,
    )
    images = {"image_processor_type": "GotOcr2ImageProcessor", "size": {"height": 28, "width": 28}, "max_patches": 4}
    images |= {"crop_to_patches": True}
    _save(
        folder, hf.InternVLForConditionalGeneration(config), tokenizer, images, CHAT.replace("IMAGE", "<IMG_CONTEXT>")
    )
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "InternVLProcessor", "image_seq_length": 1})
    )


def glm4(folder: Path) -> None:
    names = ("image", "video", "begin_of_image", "end_of_image", "begin_of_video", "end_of_video", "begin_of_box")
    marks = {f"{name}_token": f"<|{name}|>" for name in (*names, "end_of_box")}
    tokenizer = _tokenizer(**marks)
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image", "video")}
    for end in ("start", "end"):
        word = "begin" if end == "start" else "end"
        for kind in ("image", "video"):
            ids[f"{kind}_{end}_token_id"] = tokenizer.convert_tokens_to_ids(f"<|{word}_of_{kind}|>")
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 14}
    vision |= {"out_hidden_size": 32, "image_size": 56}
    config = hf.Glm4vConfig(text_config=_text(tokenizer), vision_config=vision, **ids)
    images = {**QWEN_IMAGES, "image_processor_type": "Glm4vImageProcessor", "patch_size": 14}
    images |= {"size": {"shortest_edge": 3136, "longest_edge": 131072}}  # of two frames, which a picture counts as
    chat = CHAT.replace("IMAGE", "<|begin_of_image|><|image|><|end_of_image|>")
    _save(folder, hf.Glm4vForConditionalGeneration(config), tokenizer, images, chat)


def paligemma(folder: Path) -> None:
    tokenizer = _tokenizer(image_token="<image>")
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    vision = {"image_size": 28, "patch_size": 14, **SMALL, "num_attention_heads": 2, "projection_dim": 32}
    tokens = [f"<loc{i:04d}>" for i in range(1024)] + [f"<seg{i:03d}>" for i in range(128)]
    tokenizer.add_tokens(tokens)
    text = {"model_type": "gemma", "vocab_size": len(tokenizer), "head_dim": 16, **SMALL, **HEADS}
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    config = hf.PaliGemmaConfig(text_config=text, vision_config=vision, image_token_id=image_id, projection_dim=32)
    images = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 28, "width": 28}}
    images |= {"image_seq_length": 4}
    _save(folder, hf.PaliGemmaForConditionalGeneration(config), tokenizer, images)


def florence2(folder: Path) -> None:
    tokenizer = _tokenizer(image_token="<image>")
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.add_tokens([f"<loc_{i}>" for i in range(1000)])
    start = tokenizer.bos_token_id
    bart = {"model_type": "bart", "vocab_size": len(tokenizer), "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    bart |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": start}
    bart |= {"decoder_start_token_id": start, "forced_eos_token_id": None}
    vision = {"depths": [1] * 4, "embed_dim": [8] * 4, "num_heads": [1] * 4, "num_groups": [1] * 4, "window_size": 2}
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    config = hf.Florence2Config(
        text_config=bart, vision_config={**vision, "projection_dim": 16}, image_token_id=image_id
    )
    images = {"image_processor_type": "CLIPImageProcessor", "size": {"height": 64, "width": 64}}
    images |= {"do_center_crop": False, "image_seq_length": 5}
    model = hf.Florence2ForConditionalGeneration(config)
    _save(folder, model, tokenizer, images)
    model.generation_config.decoder_start_token_id = start
    model.generation_config.save_pretrained(folder)


def grounding_dino(folder: Path) -> None:
    save_bert(folder)
    backbone = {"model_type": "swin", "image_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1]}
    backbone |= {"num_heads": [1, 1, 1, 1], "window_size": 2, "out_features": ["stage2", "stage3", "stage4"]}
    text = json.loads((folder / "config.json").read_text())
    config = hf.GroundingDinoConfig(
        backbone_config=backbone,
        text_config={**text, "max_position_embeddings": 256},
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=10,
    )
    hf.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = {"image_processor_type": "GroundingDinoImageProcessor", "size": {"shortest_edge": 96, "longest_edge": 256}}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))


def owl(folder: Path) -> None:
    _owl(folder, hf.OwlViTConfig, hf.OwlViTForObjectDetection, "OwlViTImageProcessor")


def owl2(folder: Path) -> None:
    _owl(folder, hf.Owlv2Config, hf.Owlv2ForObjectDetection, "Owlv2ImageProcessor")


def _owl(folder: Path, config_class: Any, model_class: Any, image_processor: str) -> None:
    tokenizer = _tokenizer()
    tokenizer.padding_side = "right"
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "pad_token_id": tokenizer.pad_token_id}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, **SMALL, "num_attention_heads": 2}
    vision = {"image_size": 64, "patch_size": 16, **SMALL, "num_attention_heads": 2}
    model_class(config_class(text_config=text, vision_config=vision, projection_dim=32)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = {"image_processor_type": image_processor, "size": {"height": 64, "width": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))


TINY: dict[str, Callable[[Path], None]] = {
    "qwen2_vl": qwen2,
    "qwen2_5_vl": qwen2_5,
    "qwen3_vl": qwen3,
    "qwen3_vl_moe": qwen3_moe,
    "qwen3_5": qwen3_5,
    "qwen4_exp": qwen4,
    "internvl": internvl,
    "glm4v": glm4,
    "paligemma": paligemma,
    "florence2": florence2,
    "grounding-dino": grounding_dino,
    "owlvit": owl,
    "owlv2": owl2,
}


def save_tiny(model_type: str, folder: Path) -> Path:
    """Write the checkpoint of a model type; the same one every time."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    TINY[model_type](folder)
    return folder
