"""The whole segmenter: the shipped size and a reduced Swin + BERT learn; invariants of encode and decode."""

import dataclasses
import json

import pytest
import torch

from l2l_ray.config import SegmenterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.segmenter.losses import segmentation_loss
from l2l_ray.segmenter.model import Segmenter, output_grid
from tests.tiny_models import save_bert, save_swin

WEIGHTS = (0.5, 0.4)  # of Dice, and of the coarser levels
EXPRESSIONS = ["the left red circle", "star", "big blue square right"]


@pytest.fixture(scope="module")
def large_config(tmp_path_factory):
    """Give Swin-B's and BERT's architecture, every width and depth reduced, at LAVT's 480 px."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints")
    save_swin(folder / "backbone")
    save_bert(folder / "text")
    return SegmenterConfig(
        backbone=str(folder / "backbone"),
        text=str(folder / "text"),
        image_size=480,
        width=32,
        fusion_width=32,
        fusion_layers=1,
        fusion_stride=16,
        num_heads=2,
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mask_does_not_depend_on_the_other_texts_of_the_batch(tmp_path, side):
    torch.manual_seed(0)
    save_bert(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "padding_side": side}))
    segmenter = Segmenter(SegmenterConfig(text=str(tmp_path), image_size=64)).eval()

    def logits(expressions):
        num = len(expressions)
        images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).expand(num, -1, -1, -1)
        proposal = torch.full((num, segmenter.grid, segmenter.grid), 0.5)
        with torch.no_grad():
            output = segmenter(images, expressions, proposal, torch.ones(num), torch.ones(num).bool(), expressions)
        return output.mask_logits[0]

    alone = logits(["red circle"])
    beside = logits(["red circle", "the small blue square in the left right big star"])
    torch.testing.assert_close(beside, alone, rtol=1e-4, atol=1e-4)


def small_config(**fields):
    return SegmenterConfig(**{"pretrained": False, "image_size": 64, **fields})


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return Segmenter(small_config()).eval()


@dataclasses.dataclass
class Batch:
    images: torch.Tensor
    expressions: list[str]
    tokens: object
    proposal: torch.Tensor
    score: torch.Tensor
    has: torch.Tensor
    phrases: list[str]
    phrase_tokens: object

    def decoding(self, **changed):
        """What `decode` takes besides the encoding."""
        return {**self._prior(), "phrases": self.phrase_tokens, **changed}

    def whole(self, **changed):
        """What `forward` takes."""
        return {
            "images": self.images,
            "expressions": self.expressions,
            "phrases": self.phrases,
            **self._prior(),
            **changed,
        }

    def _prior(self):
        return {"proposal": self.proposal, "prior_score": self.score, "has_prior": self.has}


def make_batch(segmenter, image_size=64, num=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    expressions = EXPRESSIONS[:num]
    phrases = [expression.split()[-1] for expression in expressions]
    return Batch(
        torch.rand(num, 3, image_size, image_size, generator=generator),
        expressions,
        segmenter.tokenize(expressions),
        torch.rand(num, segmenter.grid, segmenter.grid, generator=generator),
        torch.rand(num, generator=generator),
        torch.tensor([True, False, True][:num]),
        phrases,
        segmenter.tokenize(phrases),
    )


def train(segmenter, batch, steps, lr=2e-3):
    """Fit one batch whose targets are the left half; return the losses."""
    target = torch.zeros(len(batch.images), segmenter.grid, segmenter.grid)
    target[:, :, : segmenter.grid // 2] = 1
    optimizer = torch.optim.AdamW(segmenter.parameter_groups(lr, 0.5, 0.01))
    losses = []
    for _ in range(steps):
        output = segmenter(**batch.whole())
        loss = segmentation_loss(output, target, torch.ones_like(target), len(target), *WEIGHTS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def test_geometry_of_reduced_swin_and_bert_at_480_px(large_config):
    segmenter = Segmenter(large_config)
    assert segmenter.grid == 120 and segmenter.backbone.strides == (4, 8, 16, 32)
    batch = make_batch(segmenter, 480, num=1)
    output = segmenter(**batch.whole())
    assert [level.shape[-1] for level in output.level_logits] == [30, 30, 60]
    assert output.mask_logits.shape == (1, 120, 120)


def test_reduced_swin_and_bert_learn_at_a_size_that_needs_padding(large_config):
    torch.manual_seed(0)
    segmenter = Segmenter(large_config.model_copy(update={"image_size": 176}))
    batch = make_batch(segmenter, 176, num=2)  # 5.5 cells at stride 32
    losses = train(segmenter, batch, 4, lr=5e-3)
    assert segmenter.grid == 44 and losses[-1] < 0.9 * losses[0]


def test_loaded_weights_are_the_saved_ones(large_config):
    first, second = (Segmenter(large_config) for _ in range(2))
    for part in ("backbone", "text"):
        expected = getattr(first, part).state_dict()
        for name, value in getattr(second, part).state_dict().items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("fields", [{}, {"guidance": False}, {"self_evolve": False}], ids=str)
def test_shipped_size_learns_from_random_weights(fields):
    torch.manual_seed(0)
    segmenter = Segmenter(small_config(**fields))
    losses = train(segmenter, make_batch(segmenter, num=2), 4)
    assert losses[-1] < 0.8 * losses[0]
    assert [name for name, p in segmenter.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("image_size", "grid"), [(64, 32), (96, 48)])
def test_shapes_of_the_shipped_encoder(image_size, grid):
    segmenter = Segmenter(small_config(image_size=image_size)).eval()
    output = segmenter(**make_batch(segmenter, image_size).whole())
    assert segmenter.grid == grid
    assert output.mask_logits.shape == (3, grid, grid)
    assert [level.shape[-1] for level in output.level_logits] == [grid // 4, grid // 4, grid // 2]


@torch.no_grad()
def test_one_encoding_decoded_twice_equals_forward(segmenter):
    batch = make_batch(segmenter)
    encoded = segmenter.encode(batch.images, batch.tokens)
    absent = {"has_prior": torch.zeros(3, dtype=torch.bool)}
    for changed in ({}, absent):
        decoded = segmenter.decode(encoded, **batch.decoding(**changed))
        whole = segmenter(**batch.whole(**changed))
        assert torch.equal(decoded.mask_logits, whole.mask_logits)
        for level, own in zip(decoded.level_logits, whole.level_logits, strict=True):
            assert torch.equal(level, own)


@torch.no_grad()
def test_sentences_of_one_image_share_one_pass_of_the_backbone(segmenter):
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))[[0, 0, 1, 2, 2, 2, 0]]
    tokens = segmenter.tokenize(["left cup", "cup", "dog", "left dog", "a", "b", "cup"])
    sizes = []
    hook = segmenter.backbone.register_forward_hook(lambda module, args, levels: sizes.append(len(levels[0])))
    with torch.no_grad():
        together = segmenter.encode(images, tokens)
    with torch.enable_grad():
        learned = segmenter.encode(images, tokens)
    hook.remove()
    assert sizes == [4, 7], "four runs of equal images; where gradients are wanted, every row"
    for level, own in zip(together.pyramid, learned.pyramid, strict=True):
        torch.testing.assert_close(level, own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("image_size", [64, 96])
def test_the_grid_is_known_without_weights(image_size):
    config = small_config(image_size=image_size)
    assert output_grid(config) == Segmenter(config).grid == image_size // 2


def test_permuting_the_batch_permutes_the_output(segmenter):
    batch, order = make_batch(segmenter), torch.tensor([2, 0, 1])
    output = segmenter(**batch.whole())
    permuted = segmenter(
        batch.images[order],
        [batch.expressions[i] for i in order],
        batch.proposal[order],
        batch.score[order],
        batch.has[order],
        [batch.phrases[i] for i in order],
    )
    assert torch.allclose(permuted.mask_logits, output.mask_logits[order], atol=1e-5)


@torch.no_grad()
def test_without_prior_proposal_score_and_phrase_change_nothing(segmenter):
    batch, other = make_batch(segmenter), make_batch(segmenter, seed=1)
    absent = torch.zeros(3, dtype=torch.bool)
    encoded = segmenter.encode(batch.images, batch.tokens)
    first = segmenter.decode(encoded, batch.proposal, batch.score, absent, batch.phrase_tokens)
    second = segmenter.decode(encoded, other.proposal, other.score, absent, segmenter.tokenize(batch.phrases[::-1]))
    assert torch.equal(first.mask_logits, second.mask_logits)
    no_phrase = segmenter.decode(encoded, other.proposal, other.score, absent)
    assert torch.allclose(first.mask_logits, no_phrase.mask_logits, atol=1e-5)
    present = segmenter.decode(encoded, batch.proposal, batch.score, ~absent, batch.phrase_tokens)
    assert not torch.allclose(first.mask_logits, present.mask_logits, atol=1e-3)


@torch.no_grad()
def test_guidance_off_is_the_segmenter_without_prior(segmenter):
    batch = make_batch(segmenter)
    without = Segmenter(small_config(guidance=False)).eval()
    without.load_state_dict(segmenter.state_dict())
    encoded = segmenter.encode(batch.images, batch.tokens)
    expected = segmenter.decode(encoded, batch.proposal, batch.score, torch.zeros(3, dtype=torch.bool))
    output = without.decode(encoded, **batch.decoding())
    assert torch.equal(output.mask_logits, expected.mask_logits)


def test_same_seed_same_model_and_state_dict_round_trip(tmp_path):
    outputs, segmenters = [], []
    for _ in range(2):
        torch.manual_seed(3)
        segmenter = Segmenter(small_config())
        batch = make_batch(segmenter)
        train(segmenter, batch, 1)
        segmenters.append(segmenter)
        outputs.append(segmenter(**batch.whole()).mask_logits)
    assert torch.equal(*outputs)
    torch.save(segmenters[0].state_dict(), tmp_path / "weights.pt")
    restored = Segmenter(small_config())
    restored.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    batch = make_batch(restored)
    assert torch.equal(restored(**batch.whole()).mask_logits, outputs[0])


def test_parameter_groups_hold_each_parameter_once_and_decay_only_layer_weights(segmenter):
    groups = segmenter.parameter_groups(lr=1e-3, encoder_lr_scale=0.1, weight_decay=0.05)
    found = [id(p) for group in groups for p in group["params"]]
    assert len(found) == len(set(found)) == len(list(segmenter.parameters()))
    where = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    by_name = {name: where[id(p)] for name, p in segmenter.named_parameters()}
    assert by_name["decoder.last_layer.weight"] == (1e-3, 0.05)
    assert by_name["decoder.last_layer.bias"] == (1e-3, 0.0)
    assert by_name["guidance.tokens"] == by_name["guidance.region_absent"] == (1e-3, 0.0)
    for name, (lr, decay) in by_name.items():
        assert lr == pytest.approx(1e-4 if name.startswith(("backbone.", "text.", "fusion.")) else 1e-3), name
        assert decay == 0.0 or name.endswith(".weight"), name
        assert decay == 0.0 or not any(word in name.lower() for word in ("norm", "word_embed", "position")), name


def test_frozen_parameters_are_left_out():
    segmenter = Segmenter(small_config())
    segmenter.text.requires_grad_(False)
    found = {id(p) for group in segmenter.parameter_groups(1e-3, 0.1, 0.05) for p in group["params"]}
    assert not found & {id(p) for p in segmenter.text.parameters()}


@torch.no_grad()
def test_autocast_changes_little_and_keeps_float32_logits(segmenter):
    batch = make_batch(segmenter)
    expected = segmenter(**batch.whole()).mask_logits
    with torch.autocast("cpu", torch.bfloat16):
        output = segmenter(**batch.whole())
    assert output.mask_logits.dtype == torch.float32
    assert torch.allclose(output.mask_logits, expected, atol=0.2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fusion_stride": 7}, r"fusion_stride must be one of the backbone's strides \(2, 4, 8, 16\) px, got 7"),
        ({"width": 98}, "width must be a multiple of num_heads = 4, got 98"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Segmenter(small_config(**fields))


def test_a_proposal_off_the_grid_is_refused(segmenter):
    batch = make_batch(segmenter)
    with pytest.raises(ValueError, match=r"\(3, 32, 32\), got \(3, 16, 16\); build it at Segmenter.grid"):
        segmenter(**batch.whole(proposal=torch.rand(3, 16, 16)))


def test_each_part_may_learn_at_a_rate_of_its_own():
    segmenter = Segmenter(small_config())
    groups = segmenter.parameter_groups(1e-3, 0.5, 0.05, backbone_lr_scale=0.1, text_lr_scale=0.2)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    expected = {"backbone": 1e-4, "text": 2e-4, "fusion": 5e-4}
    for name, parameter in segmenter.named_parameters():
        assert rates[id(parameter)] == pytest.approx(expected.get(name.split(".")[0], 1e-3)), name


def test_groups_of_equal_rates_are_those_without_rates_of_their_own():
    """Optimiser states are saved by place, so the order must not change."""
    segmenter = Segmenter(small_config())
    plain, same = (segmenter.parameter_groups(1e-3, 0.5, 0.05, *scales) for scales in ((), (0.5, 0.5)))
    assert [[id(p) for p in group["params"]] for group in plain] == [[id(p) for p in group["params"]] for group in same]
    assert [group["lr"] for group in plain] == pytest.approx([5e-4, 5e-4, 1e-3, 1e-3])
