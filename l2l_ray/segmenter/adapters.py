"""What of a segmenter learns, and how: frozen encoders, LoRA adapters inside them, activations that are not kept.

Adapters live in the student alone. The teacher, which labels, is evaluated, saved and exported, is a plain segmenter:
`plain_state` merges the student's adapters into the weights they adapt. So nobody else knows that there are any.

Source: Hu et al. 2021 (LoRA), by the library `peft`; scale and choice of layers are ours.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from l2l_ray.config import SegmenterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.segmenter.model import Segmenter

LORA_SCALE = 2  # what an adapter adds is this times B A, at any rank


def prepare_to_learn(segmenter: Segmenter, config: SegmenterConfig) -> None:
    """Freeze, adapt and thin out the parts of a segmenter as its config says, in place; drawn weights are torch's.

    Levels that are added to a plain ViT start random, so they learn although their encoder is frozen.

    Raises:
        ConfigError: Adapters are asked for and `peft` is not installed, or an encoder has no layer for them; an encoder
            cannot compute its activations again.
    """
    for name, model, learns in _encoders(segmenter, config):
        if not learns:
            model.requires_grad_(False)
        elif config.lora_rank:
            _adapt(name, model, config.lora_rank)
        if config.checkpoint_activations and learns:
            _keep_less(name, model)
    segmenter.fusion.keeps_activations = not config.checkpoint_activations


def require_buildable(config: SegmenterConfig) -> None:
    """Refuse a segmenter that cannot be made or cannot learn as its config says; no weights are made or read.

    Raises:
        ConfigError: As `Segmenter` and `prepare_to_learn`; or texts may get longer than the text encoder can read.
    """
    with torch.device("meta"):
        segmenter = Segmenter(config.model_copy(update={"pretrained": False}))
        most = segmenter.text.num_positions()
        if most is not None and config.max_text_tokens > most:
            raise ConfigError(
                f"segmenter.max_text_tokens is {config.max_text_tokens}, expected at most the {most} positions of "
                f"segmenter.text {config.text!r}; set it to {most}, or choose an encoder for longer texts"
            )
        prepare_to_learn(segmenter, config)


def plain_state(segmenter: nn.Module) -> dict[str, Tensor]:
    """Return the state of a segmenter as one without adapters has it; without adapters, its own tensors."""
    state: dict[str, Tensor] = dict(segmenter.state_dict())
    for name, module in segmenter.named_modules():
        if hasattr(module, "get_delta_weight"):
            weight = f"{name}.base_layer.weight"
            state[weight] = state[weight] + module.get_delta_weight("default")
    return {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}


def _encoders(segmenter: Segmenter, config: SegmenterConfig) -> list[tuple[str, nn.Module, bool]]:
    return [
        ("segmenter.backbone", segmenter.backbone.model, config.train_backbone),
        ("segmenter.text", segmenter.text.model, config.train_text),
    ]


def _adapt(name: str, model: nn.Module, rank: int) -> None:
    """Put adapters into the linear layers of an encoder; its own weights rest."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError(
            "segmenter.lora_rank needs a package that is not installed; pip install 'l2l-ray[lora]', or set it to 0"
        ) from None
    # What no output depends on was frozen by the probe; an adapter there would never get a gradient.
    layers = [each for each, m in model.named_modules() if isinstance(m, nn.Linear) and m.weight.requires_grad]
    if not layers:
        raise ConfigError(
            f"segmenter.lora_rank is {rank}, and {name} ({type(model).__name__}) has no linear layer to adapt; set it "
            "to 0, or choose a transformer"
        )
    model.requires_grad_(False)
    adapters = LoraConfig(r=rank, lora_alpha=LORA_SCALE * rank, target_modules=layers)
    with torch.enable_grad():
        inject_adapter_in_model(adapters, model)


def _keep_less(name: str, model: nn.Module) -> None:
    """Let an encoder compute each layer's activations again in the backward pass."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            f"segmenter.checkpoint_activations is on, and {name} ({type(model).__name__}) cannot do it; switch it off, "
            "and set loop.micro_batch where memory is short"
        )
    for layer in layers:  # transformers' own switch works in training mode alone, and is called anew every few versions
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
