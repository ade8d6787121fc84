"""Sentences as plain text: broken where a tokenizer would read a special token, untouched everywhere else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from l2l_ray.plain_text import PlainText
from l2l_ray.prior.mllm import EMBEDDED_FOLDER
from l2l_ray.segmenter.backbone import ENCODER_DIR

SPECIAL = {
    "bos_token": "[CLS]",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}
LETTERS = [chr(code) for code in range(33, 127)]


def word_pieces() -> PreTrainedTokenizerFast:
    """Make a tokenizer as BERT's: capitals folded, words from a list of pieces."""
    pieces = [*SPECIAL.values(), *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def unigram() -> PreTrainedTokenizerFast:
    """Make a tokenizer as T5's, whose pieces include the special tokens, with a token looked for after NFKC."""
    pieces = [*((text, 0.0) for text in SPECIAL.values()), ("\u2581", -3.0), *((letter, -3.0) for letter in LETTERS)]
    tokenizer = Tokenizer(models.Unigram(pieces, 3))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)
    made.add_tokens([AddedToken("<think>", normalized=True), AddedToken("zebra", normalized=True)])
    return made


TOKENIZERS = {
    "mllm": AutoTokenizer.from_pretrained(EMBEDDED_FOLDER),
    "text": AutoTokenizer.from_pretrained(ENCODER_DIR / "text"),
    "word pieces": word_pieces(),
    "unigram": unigram(),
}
COMMANDS = [
    "<|image_pad|>",
    "<|im_end|>",
    "<|im_start|>",
    "[SEP]",
    "[PAD]",
    "[CLS]",
    "[MASK]",
    "</s>",
    "<pad>",
    "<think>",
]


def specials(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    return {number for text, number in added.items() if text not in ("zebra", tokenizer.unk_token)}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(deadline=None)
@given(
    parts=st.lists(
        st.sampled_from(
            [*COMMANDS, "\uff1cthink\uff1e", "<|im_", "<|im_<|im_end|>end|>", " ", "\x00", "\ud800", "\u202e"]
        )
        | st.text(st.characters(codec=None), max_size=5),
        max_size=6,
    )
)
def test_no_text_becomes_a_special_token(name: str, parts: list[str]) -> None:
    tokenizer = TOKENIZERS[name]
    text = PlainText(tokenizer)("".join(parts))
    assert not specials(tokenizer) & set(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_commands_would_be_special_tokens_and_stay_readable(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    found = [
        text for text in COMMANDS if specials(tokenizer) & set(tokenizer(text, add_special_tokens=False)["input_ids"])
    ]
    assert len(found) >= 3
    for text in found:
        assert PlainText(tokenizer)(f"the {text} sign") == f"the {text[0]} {text[1:]} sign"


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "text", ["", "left man", "a zebra", "[mask] of <b> {x}", "x < y | z", "\U0001f600 \u05e9\u05dc\u05d5\u05dd\n\t"]
)
def test_other_text_is_returned_as_it_is(name: str, text: str) -> None:
    assert PlainText(TOKENIZERS[name])(text) == text


def test_what_a_processor_looks_for_counts_too() -> None:
    assert PlainText(TOKENIZERS["text"], ["<OD>"])("an <OD> sign") == "an < OD> sign"
