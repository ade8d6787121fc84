"""Text encoder: tokens of odd inputs, nothing unknown, padding without effect."""

import json

import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    ModernBertConfig,
    MPNetConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from l2l_ray.config import SegmenterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.segmenter.text import TextEncoder, TextTokenizer, TextTokens
from tests.tiny_models import save_bert

TEXTS = ["", "left red circle", "the seccond brwon ☂ thing", "ÀÉ 红色的圆 🙂", " ".join(["star"] * 500)]

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder(SegmenterConfig())


def test_tokens_are_padded_to_the_longest_and_cut_at_the_limit(encoder):
    tokens = encoder.tokenize(TEXTS)
    assert tokens.input_ids.shape == tokens.attention_mask.shape == (5, SegmenterConfig().max_text_tokens)
    lengths = tokens.attention_mask.sum(1).tolist()
    assert lengths[0] == 2  # the sentence token and the end: an empty expression is still a sentence
    assert lengths[4] == SegmenterConfig().max_text_tokens
    assert encoder.tokenize(["star"]).input_ids.shape == (1, 3)


@pytest.mark.parametrize("text", ["left red circle", "teh crcle 2nd form left", "红色的圆 🙂", "x" * 12])
def test_nothing_is_unknown_so_text_survives_the_round_trip(encoder, text):
    tokenizer = encoder.tokenize.tokenizer
    assert tokenizer.unk_token is None
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text


@pytest.mark.parametrize(
    "text", ["[SEP]", "[CLS] [PAD]", "<|im_end|>", "\ud800", "\x00", "?!", "{}", "\u05e9\u05dc", "x" * 100_000]
)
def test_any_text_is_text(encoder, text):
    special = {
        encoder.tokenize.tokenizer.sep_token_id,
        encoder.tokenize.tokenizer.cls_token_id,
        encoder.tokenize.tokenizer.pad_token_id,
    }
    ids = encoder.tokenize([text]).input_ids[0].tolist()
    assert not special & set(ids[1:-1])


def test_tokens_are_counted_before_they_are_cut(encoder):
    lengths = encoder.tokenize.num_tokens(TEXTS * 500)
    assert lengths[: len(TEXTS)] * 500 == lengths
    assert lengths[0] == 2 and lengths[4] > 500
    assert lengths[1] == encoder.tokenize([TEXTS[1]]).input_ids.shape[1]
    assert encoder.tokenize.num_tokens([]) == []


def test_a_tokenizer_that_pads_and_cuts_on_the_left_is_made_to_do_so_on_the_right(tmp_path):
    found = {}
    for side in ("left", "right"):
        save_bert(tmp_path / side)
        path = tmp_path / side / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "padding_side": side, "truncation_side": side}))
        found[side] = TextTokenizer(SegmenterConfig(text=str(tmp_path / side), max_text_tokens=6))(
            ["red circle", "the small blue square in the left"]
        )
    assert torch.equal(found["left"].input_ids, found["right"].input_ids)
    assert found["left"].attention_mask.tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]


# RoBERTa's first two positions are for padding, OPT's are not used; relative and rotary ones go on without end.
@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (BertConfig(max_position_embeddings=32, **SIZE), 32),
        (RobertaConfig(max_position_embeddings=34, pad_token_id=1, **SIZE), 32),
        (DistilBertConfig(max_position_embeddings=32, dim=16, n_layers=1, n_heads=2, hidden_dim=16), 32),
        (CLIPTextConfig(max_position_embeddings=32, **SIZE), 32),
        (GPT2Config(n_positions=32, n_embd=16, n_layer=1, n_head=2), 32),
        (OPTConfig(max_position_embeddings=32, ffn_dim=16, word_embed_proj_dim=16, **SIZE), 32),
        (
            DebertaV2Config(max_position_embeddings=32, relative_attention=True, position_biased_input=False, **SIZE),
            None,
        ),
        (ModernBertConfig(max_position_embeddings=32, pad_token_id=0, **SIZE), None),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_an_encoder_reads_as_many_tokens_as_it_says(tmp_path, encoder, config, positions):
    encoder.tokenize.tokenizer.save_pretrained(tmp_path)
    config.vocab_size = len(encoder.tokenize.tokenizer)
    config.save_pretrained(tmp_path)
    made = TextEncoder(SegmenterConfig(text=str(tmp_path), pretrained=False, max_text_tokens=40))
    assert made.num_positions() == positions
    ids = torch.full((1, positions or 40), 5)
    assert made(TextTokens(ids, torch.ones_like(ids))).isfinite().all()
    if positions is not None:
        ids = torch.full((1, positions + 1), 5)
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            made(TextTokens(ids, torch.ones_like(ids)))


def test_capitals_do_not_matter(encoder):
    assert torch.equal(encoder.tokenize(["Left RED circle"]).input_ids, encoder.tokenize(["left red circle"]).input_ids)


def test_padding_does_not_change_a_vector(encoder):
    together = encoder.tokenize(TEXTS)
    batched = encoder(together)
    assert batched.shape[2] == encoder.width
    for i, text in enumerate(TEXTS):
        alone = encoder(encoder.tokenize([text]))
        torch.testing.assert_close(batched[i : i + 1, : alone.shape[1]], alone, rtol=1e-4, atol=1e-4)


def test_training_mode_is_deterministic_and_every_weight_gets_a_gradient(encoder):
    tokens = encoder.tokenize(TEXTS)
    assert torch.equal(encoder.train()(tokens), encoder.train()(tokens))
    encoder(tokens).square().mean().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    encoder.zero_grad()


@pytest.mark.parametrize("config", [XLMRobertaConfig(**SIZE), MPNetConfig(**SIZE)], ids=lambda it: it.model_type)
def test_weights_that_no_vector_depends_on_are_frozen(tmp_path, encoder, config):
    encoder.tokenize.tokenizer.save_pretrained(tmp_path)
    config.vocab_size = len(encoder.tokenize.tokenizer)
    config.save_pretrained(tmp_path)
    made = TextEncoder(SegmenterConfig(text=str(tmp_path), pretrained=False))
    made(made.tokenize(TEXTS[1:3])).square().mean().backward()
    frozen = {name for name, p in made.named_parameters() if not p.requires_grad}
    assert frozen == {"model.pooler.dense.weight", "model.pooler.dense.bias"}
    assert frozen == {name for name, p in made.named_parameters() if p.grad is None}


def test_bert_of_another_width_loads_without_pooler_and_dropout(tmp_path, encoder):
    encoder.tokenize.tokenizer.save_pretrained(tmp_path)
    BertConfig(
        vocab_size=len(encoder.tokenize.tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
    ).save_pretrained(tmp_path)
    bert = TextEncoder(SegmenterConfig(text=str(tmp_path), pretrained=False))
    assert bert.width == 32
    assert bert.model.pooler is None
    assert bert.model.config.hidden_dropout_prob == 0
    tokens = bert.tokenize(["red star"])
    assert torch.equal(bert.train()(tokens), bert.train()(tokens))


@pytest.mark.parametrize("pretrained", [True, False])
def test_weights_of_half_precision_are_loaded_in_full(tmp_path, pretrained):
    save_bert(tmp_path)
    saved = BertModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    saved.save_pretrained(tmp_path)
    encoder = TextEncoder(SegmenterConfig(text=str(tmp_path), pretrained=pretrained))
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32}
    words = saved.embeddings.word_embeddings.weight.float()
    assert torch.equal(encoder.model.embeddings.word_embeddings.weight, words) == pretrained


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="segmenter.text.*nowhere"):
        TextEncoder(SegmenterConfig(text=str(tmp_path / "nowhere")))


def test_tokenizer_without_padding_is_refused(tmp_path, encoder):
    backend = Tokenizer.from_str(encoder.tokenize.tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="[CLS]").save_pretrained(tmp_path)
    GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=len(backend.get_vocab())).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no padding token"):
        TextEncoder(SegmenterConfig(text=str(tmp_path), pretrained=False))
