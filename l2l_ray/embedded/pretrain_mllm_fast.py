"""Faster training of equal-sized images on CPU: same weights, same values, other kernels.

The Qwen3-VL vision tower packs images of any size and attends to them one by one; its patch embedding is a 3-D
convolution whose backward pass is slow on CPU. All images of the pretraining have one size, so the tower is run
here as plain batched tensor code over the model's own parameters. Saving and generating never see this file; a test
compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from l2l_ray.embedded.pretrain_mllm_model import GRID
from l2l_ray.embedded.pretrain_mllm_sequences import Sequences

_NUM_PATCHES = GRID * GRID


class FastVision:
    """Runs a model's vision tower on images of 128 x 128.

    Args:
        model: Its parameters are used in place.
        compiled: Fuse the blocks with `torch.compile` (a third faster, needs a C++ compiler).
    """

    def __init__(self, model: Qwen3VLForConditionalGeneration, compiled: bool) -> None:
        self.visual: Any = model.model.visual
        with torch.no_grad():
            rope = self.visual.rotary_pos_emb
            ids, position = _geometry(self.visual)
            self.cos, self.sin = rope(torch.zeros(1), ids)
            self.position_ids = position
        self._block: Callable[..., Tensor] = torch.compile(_block, dynamic=False) if compiled else _block

    def __call__(self, patches: Float[Tensor, "P C"]) -> tuple[Float[Tensor, "T D"], list[Float[Tensor, "T D"]]]:
        """Return the merged tokens and the deepstack features of all images."""
        visual = self.visual
        weight = visual.patch_embed.proj.weight.flatten(1)
        hidden = F.linear(patches, weight, visual.patch_embed.proj.bias).view(-1, _NUM_PATCHES, weight.shape[0])
        hidden = hidden + visual.pos_embed(self.position_ids)
        deepstack = []
        for number, block in enumerate(visual.blocks):
            hidden = self._block(block, hidden, self.cos, self.sin)
            if number in visual.deepstack_visual_indexes:
                merger = visual.deepstack_merger_list[visual.deepstack_visual_indexes.index(number)]
                deepstack.append(merger(hidden.flatten(0, 1)))
        return visual.merger(hidden.flatten(0, 1)), deepstack


def _geometry(visual: Any) -> tuple[Tensor, Tensor]:
    """Return row and column of each patch in merged order, and its index in the position table."""
    merge = visual.spatial_merge_size
    rows, cols = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    grid = torch.stack([rows, cols], -1).view(GRID // merge, merge, GRID // merge, merge, 2)
    ids = grid.permute(0, 2, 1, 3, 4).reshape(_NUM_PATCHES, 2)
    return ids, ids[:, 0] * GRID + ids[:, 1]


def _block(block: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    attention = block.attn
    num, length, width = hidden.shape
    qkv = attention.qkv(block.norm1(hidden)).view(num, length, 3, attention.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
    weights = torch.softmax((query * attention.scaling) @ key.transpose(-1, -2), -1)
    mixed = (weights.to(value.dtype) @ value).transpose(1, 2).reshape(num, length, width)
    hidden = hidden + attention.proj(mixed)
    total: Tensor = hidden + block.mlp(block.norm2(hidden))
    return total


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = states.shape[-1] // 2
    turned = torch.cat((-states[..., half:], states[..., :half]), -1)
    return states * cos.to(states.dtype) + turned * sin.to(states.dtype)


class FastLanguage:
    """Runs a model's language layers on left-padded sequences that hold one image at the same place in every row.

    Args:
        model: Its parameters are used in place.
        compiled: As for `FastVision` (here nearly 2 times faster; one compilation per sequence length).
    """

    def __init__(self, model: Qwen3VLForConditionalGeneration, compiled: bool) -> None:
        self.language: Any = model.model.language_model
        self._layer: Callable[..., Tensor] = torch.compile(_layer, dynamic=False) if compiled else _layer

    def __call__(
        self, sequences: Sequences, tokens: Float[Tensor, "B T D"], deepstack: list[Float[Tensor, "B T D"]]
    ) -> list[Float[Tensor, "B L D"]]:
        """Return the embeddings and the hidden states after every layer, the last one normed."""
        language = self.language
        start, stop = sequences.image_start, sequences.image_start + tokens.shape[1]
        embeds = language.embed_tokens(sequences.input_ids)
        hidden = torch.cat([embeds[:, :start], tokens.to(embeds.dtype), embeds[:, stop:]], 1)
        cos, sin = (part[:, None] for part in language.rotary_emb(hidden, sequences.position_ids))
        mask = _causal_mask(sequences.attention_mask)
        states = [hidden]
        for number, layer in enumerate(language.layers):
            hidden = self._layer(layer, hidden, cos, sin, mask)
            if number < len(deepstack):
                added = hidden[:, start:stop] + deepstack[number].to(hidden.dtype)
                hidden = torch.cat([hidden[:, :start], added, hidden[:, stop:]], 1)
            states.append(hidden)
        states[-1] = language.norm(hidden)
        return states


def _causal_mask(attention_mask: Int[Tensor, "B L"]) -> Float[Tensor, "B 1 L L"]:
    length = attention_mask.shape[1]
    allowed = torch.ones(length, length, dtype=torch.bool).tril() & attention_mask.bool()[:, None, None]
    return torch.zeros(allowed.shape).masked_fill(~allowed, -1e9)


def _layer(layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
    attention, mlp = layer.self_attn, layer.mlp
    num, length, width = hidden.shape
    normed = _rms_norm(hidden, layer.input_layernorm)
    weight = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    query, key, value = F.linear(normed, weight).view(num, length, 3, -1, attention.head_dim).permute(2, 0, 3, 1, 4)
    query = _rotate(_rms_norm(query, attention.q_norm), cos, sin).to(value.dtype)
    key = _rotate(_rms_norm(key, attention.k_norm), cos, sin).to(value.dtype)
    scores = query @ key.transpose(-1, -2) * attention.scaling + mask
    mixed = (torch.softmax(scores, -1).to(value.dtype) @ value).transpose(1, 2).reshape(num, length, width)
    hidden = hidden + attention.o_proj(mixed)
    normed = _rms_norm(hidden, layer.post_attention_layernorm)
    gate, up = F.linear(normed, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])).chunk(2, -1)
    total: Tensor = hidden + mlp.down_proj(F.silu(gate) * up)
    return total


def _rms_norm(states: Tensor, norm: Any) -> Tensor:
    states = states.float()
    normed: Tensor = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + norm.variance_epsilon) * norm.weight
    return normed
