"""What of a segmenter learns: frozen encoders, adapters that are merged away, activations that are computed again."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from transformers import BitConfig

from l2l_ray.config import SegmenterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.segmenter.adapters import plain_state, prepare_to_learn, require_buildable
from l2l_ray.segmenter.losses import segmentation_loss
from l2l_ray.segmenter.model import Segmenter, SegmenterOutput
from tests.tiny_models import save_bert, save_swin

WORDS = ["left red circle", "the man in blue"]


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> SegmenterConfig:
    """Give a section with a tiny Swin and a tiny BERT, both to be trained."""
    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    save_swin(folder / "swin")
    save_bert(folder / "bert")
    return SegmenterConfig(
        backbone=str(folder / "swin"), text=str(folder / "bert"), image_size=64, width=32, fusion_width=32,
        fusion_layers=1, fusion_stride=16, num_heads=2, train_backbone=True,
    )  # fmt: skip


def _made(section: SegmenterConfig) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(section)


def _changed(section: SegmenterConfig, **fields: object) -> SegmenterConfig:
    return section.model_copy(update=fields)


def _output(segmenter: Segmenter) -> SegmenterOutput:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(2, 3, 64, 64, generator=generator)
    proposal = torch.rand(2, segmenter.grid, segmenter.grid, generator=generator)
    output: SegmenterOutput = segmenter(images, WORDS, proposal, torch.ones(2), torch.tensor([True, False]), WORDS)
    return output


def _learn(segmenter: Segmenter, steps: int = 1, lr: float = 1e-2) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in segmenter.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        output = _output(segmenter)
        target = torch.zeros_like(output.mask_logits)
        target[:, :4] = 1
        loss = segmentation_loss(output, target, torch.ones_like(target), 2, 0.5, 0.4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _learning(segmenter: Segmenter) -> set[str]:
    return {name for name, p in segmenter.named_parameters() if p.requires_grad}


def test_more_tokens_than_the_text_encoder_has_positions_are_refused(section: SegmenterConfig) -> None:
    require_buildable(_changed(section, max_text_tokens=32))
    with pytest.raises(
        ConfigError, match=r"max_text_tokens is 33, expected at most the 32 positions of .*bert.* to 32"
    ):
        require_buildable(_changed(section, max_text_tokens=33))


@pytest.mark.parametrize(("backbone", "text"), [(True, True), (True, False), (False, True), (False, False)])
def test_an_encoder_learns_only_where_its_switch_is_on(section: SegmenterConfig, backbone: bool, text: bool) -> None:
    segmenter = _made(section)
    everything = _learning(segmenter)
    prepare_to_learn(segmenter, _changed(section, train_backbone=backbone, train_text=text))
    frozen = {name.split(".model.")[0] for name in everything - _learning(segmenter)}
    assert frozen == {part for part, learns in (("backbone", backbone), ("text", text)) if not learns}


def test_new_adapters_change_nothing_and_then_learn_alone(section: SegmenterConfig) -> None:
    plain, adapted = _made(section), _made(section)
    prepare_to_learn(adapted, _changed(section, lora_rank=2))
    torch.testing.assert_close(_output(adapted).mask_logits, _output(plain).mask_logits, atol=1e-5, rtol=1e-5)
    inside = {name for name in _learning(adapted) if name.startswith(("backbone.model.", "text.model."))}
    assert inside and all(".lora_" in name for name in inside)
    before = copy.deepcopy(adapted.state_dict())
    losses = _learn(adapted, steps=4)
    assert losses[-1] < losses[0]
    moved = {name for name, value in adapted.state_dict().items() if not torch.equal(value, before[name])}
    assert inside <= moved and moved <= _learning(adapted)


def test_merged_adapters_give_the_same_masks(section: SegmenterConfig) -> None:
    adapted, merged = _made(section), _made(section)
    prepare_to_learn(adapted, _changed(section, lora_rank=2))
    _learn(adapted, steps=3)
    state = plain_state(adapted)
    assert list(state) == list(merged.state_dict()) != list(adapted.state_dict())
    assert merged.load_state_dict(state).missing_keys == []
    expected, found = _output(adapted).mask_logits, _output(merged).mask_logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, _output(_made(section)).mask_logits, atol=1e-2)


def test_adapters_go_where_an_encoder_learns(section: SegmenterConfig) -> None:
    segmenter = _made(section)
    prepare_to_learn(segmenter, _changed(section, lora_rank=2, train_backbone=False))
    adapted = {name.split(".")[0] for name in _learning(segmenter) if ".lora_" in name}
    assert adapted == {"text"}


def test_without_adapters_the_state_is_the_segmenters_own(section: SegmenterConfig) -> None:
    segmenter = _made(section)
    state = plain_state(segmenter)
    assert all(value.data_ptr() == state[name].data_ptr() for name, value in segmenter.state_dict().items())


def test_activations_that_are_computed_again_give_the_same_gradients(section: SegmenterConfig) -> None:
    """And fewer bytes wait for the backward pass."""
    kept, gradients = [], []
    for again in (False, True):
        segmenter = _made(section)
        prepare_to_learn(segmenter, _changed(section, checkpoint_activations=again))
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = _output(segmenter)
        output.mask_logits.square().mean().backward()
        kept.append(sum(sizes))
        gradients.append({n: p.grad for n, p in segmenter.named_parameters() if p.grad is not None})
    assert kept[1] < 0.8 * kept[0]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_an_encoder_that_keeps_its_activations_in_any_case_is_refused() -> None:
    section = SegmenterConfig(pretrained=False, image_size=64, train_backbone=True, checkpoint_activations=True)
    with pytest.raises(ConfigError, match=r"segmenter\.backbone \(ConvNextBackbone\) cannot do it; switch it off, and"):
        prepare_to_learn(_made(section), section)


def test_an_encoder_without_a_layer_to_adapt_is_refused(tmp_path: Path) -> None:
    BitConfig(embedding_size=32, hidden_sizes=[32, 64], depths=[1, 1], num_groups=8).save_pretrained(tmp_path / "bit")
    section = SegmenterConfig(
        backbone=str(tmp_path / "bit"), pretrained=False, image_size=64, train_backbone=True, lora_rank=2
    )
    with pytest.raises(ConfigError, match=r"lora_rank is 2, and segmenter\.backbone \(BitBackbone\) has no linear"):
        prepare_to_learn(_made(section), section)


def test_without_the_library_the_extra_is_named(section: SegmenterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)  # as where it is not installed
    with pytest.raises(ConfigError, match=r"pip install 'l2l-ray\[lora\]', or set it to 0"):
        prepare_to_learn(_made(section), _changed(section, lora_rank=2))
