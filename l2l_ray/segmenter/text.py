"""Text encoder: any `AutoModel` + `AutoTokenizer` pair that gives one vector per token (BERT and its kin).

The shipped tiny pair has a byte-level BPE tokenizer: there is no unknown token, so a typo costs precision and never the
word. Dropout is off (see `backbone`). Tokenising is separate from encoding, and needs no weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from l2l_ray.checkpoints import checkpoint, load_whole
from l2l_ray.config import SegmenterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.plain_text import PlainText
from l2l_ray.segmenter.backbone import WEIGHT_DTYPE, freeze_unused, resolve_source, without_randomness

_AT_ONCE = 1024  # expressions whose tokens are counted together: it bounds the memory
_EXPECTED = "a text encoder such as BERT (AutoModel) or 'embedded'"
_POOLER = r"(^|\.)pooler\."  # many checkpoints lack it, as XLM-RoBERTa's do; the vectors of tokens do not depend on it
# What transformers' encoders call their tables of absolute positions; relative and rotary ones bound no text.
_POSITIONS = re.compile(r"(^|\.)((embed_)?positions?(al)?_embed\w*|embed_positions?|positions_embed|pos_emb(ed)?|wpe)$")


@dataclass(frozen=True)
class TextTokens:
    """Token ids of a batch of expressions; attention_mask is 1 at real tokens, 0 at padding.

    Example: `TextTokens(input_ids [2, 6], attention_mask [2, 6])` of `["left red circle", "star"]`.
    """

    input_ids: Int[Tensor, "B L"]
    attention_mask: Int[Tensor, "B L"]

    def to(self, device: torch.device | str) -> TextTokens:
        """Return the tokens on another device."""
        return TextTokens(self.input_ids.to(device), self.attention_mask.to(device))


class TextTokenizer:
    """Expressions as token ids, cut at `max_text_tokens`; no weights are read.

    Raises:
        ConfigError: If the tokenizer cannot be read, knows no words or cannot pad.
    Example: `TextTokenizer(SegmenterConfig())(["left red circle"])`
    """

    def __init__(self, config: SegmenterConfig) -> None:
        """Load the tokenizer of what `config.text` names."""
        source = resolve_source(config.text, "text")
        self.max_text_tokens = config.max_text_tokens
        with checkpoint("segmenter.text", source, _EXPECTED) as options:
            self.tokenizer = load_tokenizer(source, options)
        # What transformers makes where the tokenizer's files are missing knows special tokens alone.
        if len(self.tokenizer) <= len(self.tokenizer.all_special_ids):
            raise ConfigError(
                f"segmenter.text: the tokenizer of {source!r} knows no words, expected tokenizer.json or vocab.txt "
                "beside config.json; copy it there"
            )
        if self.tokenizer.pad_token_id is None:
            raise ConfigError(
                f"segmenter.text: the tokenizer of {source!r} has no padding token; use an encoder such as BERT"
            )
        self._plain_text = PlainText(self.tokenizer)

    def __call__(self, expressions: Sequence[str]) -> TextTokens:
        """Return token ids on the CPU, padded to the longest of the batch and cut at `max_text_tokens`.

        Any text is allowed; special tokens spelled in it are text.
        """
        encoded = self.tokenizer(
            [self._plain_text(expression) for expression in expressions],
            padding=True,
            truncation=True,
            max_length=self.max_text_tokens,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        return TextTokens(encoded["input_ids"], encoded["attention_mask"])

    def num_tokens(self, expressions: Sequence[str]) -> list[int]:
        """Return how many tokens each expression has before it is cut, those that begin and end a sentence included."""
        found: list[int] = []
        for start in range(0, len(expressions), _AT_ONCE):
            plain = [self._plain_text(expression) for expression in expressions[start : start + _AT_ONCE]]
            found += map(len, self.tokenizer(plain, verbose=False)["input_ids"])  # verbose says that some are long
        return found


class TextEncoder(nn.Module):
    """One vector per token of an expression.

    Attributes:
        tokenize: Makes its input of expressions.
        width: Channels of a token.

    Raises:
        ConfigError: If the checkpoint cannot be read, or as `TextTokenizer`.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        """Load what `config.text` names; random weights of its architecture without `pretrained`."""
        super().__init__()
        source = resolve_source(config.text, "text")
        self.tokenize = TextTokenizer(config)
        with checkpoint("segmenter.text", source, _EXPECTED) as options:
            self.model = _load(source, config.pretrained, options)
        if self.model.device.type != "meta":  # where only shapes are asked for, nothing learns
            with torch.enable_grad():
                freeze_unused(self.model, [self(self.tokenize(["a"]))])  # a pooler's weights, say
        self.width: int = self.model.config.hidden_size

    def num_positions(self) -> int | None:
        """Return for how many tokens the encoder has positions; None = any number, as with relative ones."""
        tables = [
            table.num_embeddings - (getattr(table, "offset", 0) if table.padding_idx is None else table.padding_idx + 1)
            for name, table in self.model.named_modules()
            if isinstance(table, nn.Embedding) and _POSITIONS.search(name)
        ]
        said = getattr(self.model.config, "max_position_embeddings", None)  # some tables have rows that are never read
        return min([*tables, *([said] if said else [])]) if tables else None

    def forward(self, tokens: TextTokens) -> Float[Tensor, "B L D"]:
        """Return the last hidden states; vectors at padding are meaningless and must be masked by the caller."""
        hidden: Tensor = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return hidden


def load_tokenizer(source: str, hub_options: dict[str, Any]) -> Any:
    """Load a tokenizer that pads and cuts at the end, whatever its checkpoint says: the first token is the sentence's.

    Args:
        source: Folder or id on the hub.
        hub_options: Of `checkpoint`.
    """
    return AutoTokenizer.from_pretrained(source, padding_side="right", truncation_side="right", **hub_options)


def _load(source: str, pretrained: bool, hub_options: dict[str, Any]) -> Any:
    config = without_randomness(AutoConfig.from_pretrained(source, **hub_options))
    # Expressions are short, and the fused kernel's backward is slow on the CPU (see `attention.attend`).
    options: dict[str, Any] = {"attn_implementation": "eager", "dtype": WEIGHT_DTYPE}
    if config.model_type in {"bert", "roberta"}:
        options["add_pooling_layer"] = False  # no vector of a token depends on it, and most people have one of these
    factory: Any = AutoModel
    if pretrained:
        return load_whole(factory, source, may_lack=_POOLER, config=config, **options, **hub_options)
    return factory.from_config(config, **options)
