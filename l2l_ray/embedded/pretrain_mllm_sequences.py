"""Token sequences of the MLLM's pretraining: question, image, answer, all of one length in a batch.

The sequence is exactly what the chat template and the processor produce for `prompt.QWEN_RELATIVE`, cut into parts
of known length: question (left-padded), 64 image tokens, the fixed start of the assistant's turn, the answer. All
labels are "color shape", so the answers have one length too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from l2l_ray.embedded.pool import ATTRIBUTE_NAMES, Pool
from l2l_ray.embedded.pretrain_mllm_model import COORDINATE_STEP, GRID, MERGE, NUM_VISUAL
from l2l_ray.prior.prompt import QWEN_RELATIVE

_SIDE = GRID // MERGE
_COLOR, _SHAPE = list(ATTRIBUTE_NAMES).index("color"), list(ATTRIBUTE_NAMES).index("shape")


@dataclass(frozen=True)
class Sequences:
    """A batch of token sequences.

    Args:
        input_ids: [B, L] without the answer's last token.
        attention_mask: [B, L].
        position_ids: [3, B, L] (time, row, column).
        image_start: Index of the first image token; the same in every row.
        answer: [B, A].
        values: [B, 4], exact coordinates in 0..100.
    """

    input_ids: Int[Tensor, "B L"]
    attention_mask: Int[Tensor, "B L"]
    position_ids: Int[Tensor, "3 B L"]
    image_start: int
    answer: Int[Tensor, "B A"]
    values: Float[Tensor, "B 4"]


class SequenceMaker:
    """Makes batches out of a pool's expressions.

    Args:
        tokenizer: The embedded model's.
        pool: Scenes and expressions.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, pool: Pool) -> None:
        self.pool, self.tokenizer = pool, tokenizer
        self.pad_id = _only(tokenizer, "<|endoftext|>")
        self.image_id = _only(tokenizer, "<|image_pad|>")
        self._before, after = _around_image(tokenizer)
        self.start_ids = tokenizer.encode(after, add_special_tokens=False)
        self.coordinate_ids = np.array([_only(tokenizer, str(n)) for n in range(0, 1001, COORDINATE_STEP)])
        self._frame, self._slots = _answer_frame(tokenizer)
        self._color_ids = np.array([_only(tokenizer, name) for name in ATTRIBUTE_NAMES["color"]])
        self._shape_ids = np.array([_only(tokenizer, f" {name}") for name in ATTRIBUTE_NAMES["shape"]])

    @property
    def is_coordinate(self) -> Tensor:
        """[A] bool: which tokens of the answer are coordinates."""
        mask = torch.zeros(len(self._frame), dtype=torch.bool)
        mask[self._slots[:4]] = True
        return mask

    def boxes(self, rows: np.ndarray) -> Float[Tensor, "B 4"]:
        """Return the referents' boxes as fractions."""
        return torch.from_numpy(self.pool.boxes_xyxy_frac[self.pool.scene_index[rows], self.pool.object_index[rows]])

    def batch(self, rows: np.ndarray, with_answer: bool = True) -> Sequences:
        """Return the sequences of some expressions; without the answer they end where generation starts."""
        questions = self._questions(rows)
        # Nearly always 32: one length, so that compiled layers are compiled once.
        num_text = max(32, -(-max(map(len, questions)) // 8) * 8)
        padded = [[self.pad_id] * (num_text - len(ids)) + ids for ids in questions]
        answer, values = self._answers(rows)
        parts = [
            torch.tensor(padded),
            torch.full((len(rows), NUM_VISUAL), self.image_id),
            torch.tensor(self.start_ids).expand(len(rows), -1),
            *([answer[:, :-1]] if with_answer else []),
        ]
        input_ids = torch.cat(parts, 1)
        lengths = torch.tensor([len(ids) for ids in questions])
        attention_mask = (torch.arange(input_ids.shape[1]) >= num_text - lengths[:, None]).long()
        return Sequences(input_ids, attention_mask, _positions(attention_mask, num_text), num_text, answer, values)

    def _questions(self, rows: np.ndarray) -> list[list[int]]:
        texts = [self._before.replace("{}", QWEN_RELATIVE.question(self.pool.texts[row])) for row in rows]
        return [item.ids for item in self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)]

    def _answers(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        values = self.boxes(rows) * (1000 / COORDINATE_STEP)
        kind = self.pool.attributes[self.pool.scene_index[rows], self.pool.object_index[rows]]
        answer = np.tile(self._frame, (len(rows), 1))
        answer[:, self._slots[:4]] = self.coordinate_ids[
            values.round().long().clamp(0, len(self.coordinate_ids) - 1).numpy()
        ]
        answer[:, self._slots[4]] = self._color_ids[kind[:, _COLOR]]
        answer[:, self._slots[5]] = self._shape_ids[kind[:, _SHAPE]]
        return torch.from_numpy(answer), values


def _only(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(
            f"{text!r} should be one token of the embedded tokenizer, got {len(ids)}; train it on more texts"
        )
    return int(ids[0])


def _around_image(tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """Return the rendered chat before (with `{}` for the question) and after the image token."""
    messages: Any = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "{}"}]}]
    rendered = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    before, after = rendered.split("<|image_pad|>")
    return before, after


def _answer_frame(tokenizer: PreTrainedTokenizerFast) -> tuple[np.ndarray, list[int]]:
    """Return the token ids of an answer and the positions of x1, y1, x2, y2, color and shape in it."""
    color, shape = ATTRIBUTE_NAMES["color"][0], ATTRIBUTE_NAMES["shape"][0]
    text = QWEN_RELATIVE.answer((10, 20, 30, 40), f"{color} {shape}") + "<|im_end|>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    slots = [ids.index(_only(tokenizer, piece)) for piece in ("10", "20", "30", "40", color, f" {shape}")]
    return np.array(ids), slots


def _positions(attention_mask: Int[Tensor, "B L"], image_start: int) -> Int[Tensor, "3 B L"]:
    """Return what `Qwen3VLModel.get_rope_index` returns for one image per row, for all rows at once."""
    num_rows, length = attention_mask.shape
    before = attention_mask[:, :image_start].sum(1, keepdim=True)
    text = (attention_mask.cumsum(1) - 1).clamp_min(0)
    positions = text.expand(3, num_rows, length).clone()
    offsets = torch.arange(_SIDE)
    stop = image_start + NUM_VISUAL
    positions[0, :, image_start:stop] = before
    positions[1, :, image_start:stop] = before + offsets.repeat_interleave(_SIDE)
    positions[2, :, image_start:stop] = before + offsets.repeat(_SIDE)
    positions[:, :, stop:] -= NUM_VISUAL - _SIDE
    return positions
