"""Every model of SAM's kin draws masks of boxes and points: tiny checkpoints, through the real loading code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from l2l_ray.config import PriorConfig
from l2l_ray.errors import ConfigError
from l2l_ray.prior.loading import identify_prior
from l2l_ray.prior.masks import read_mask
from l2l_ray.prior.sam import HALF, IMAGENET, Sam
from l2l_ray.types import BoxFrac, Prior
from tests.tiny_sams import SAMS

LEFT: BoxFrac = (0.0, 0.0, 0.5, 1.0)
MIDDLE: BoxFrac = (0.25, 0.25, 0.75, 0.75)
LoadSam = Callable[..., Sam]


def prior(*boxes: BoxFrac, points: tuple[tuple[float, float], ...] = ()) -> Prior:
    return Prior("key", boxes, (0.8,) * len(boxes), points, "thing", 0.8, "", "")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            SAMS[family](made[family])
        return made[family]

    return folder


@pytest.fixture(scope="module")
def load(folders: Callable[[str], Path]) -> LoadSam:
    return lambda family, **more: Sam.load(config_of(folders(family), **more))


def config_of(folder: Path, **more: str) -> PriorConfig:
    return PriorConfig(proposal="sam", sam_model=str(folder), **{"device": "cpu", "dtype": "float32", **more})


def picture(seed: int = 1, size: tuple[int, int] = (60, 40)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encodings(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Note every picture that the image encoder sees from now on."""
    seen: list[torch.Tensor] = []
    encode = sam.model.get_image_embeddings
    monkeypatch.setattr(sam.model, "get_image_embeddings", lambda pixels: (seen.append(pixels), encode(pixels))[1])
    return seen


@pytest.mark.parametrize("family", SAMS)
def test_boxes_and_points_become_masks(load: LoadSam, family: str) -> None:
    sam = load(family)
    asked = [
        prior(MIDDLE),
        prior(LEFT, MIDDLE, points=((0.3, 0.5), (0.9, 0.9))),  # the first point is in both, the other in none
        prior(points=((0.3, 0.5),)),
        prior(points=((0.3, 0.5), (0.6, 0.6))),
        Prior.absent("k", "no box", ""),
    ]
    photo = picture()
    replies = sam.draw([photo] * 5, asked)
    assert [len(reply.masks) for reply in replies] == [1, 2, 3, 1, 0], "a single point alone is ambiguous"
    assert [len(reply.mask_scores) for reply in replies] == [1, 2, 3, 1, 0]
    assert all(0 <= score <= 1 for reply in replies for score in reply.mask_scores)
    assert not any(reply.failure for reply in replies)
    masks = {mask for reply in replies for mask in reply.masks}
    assert len(masks) >= 3, "they are different masks"
    # A padded square of 16 x 16 cells: the picture fills two thirds of its height.
    high = 11 if family in ("sam", "sam_hq") else 16
    assert {read_mask(mask).shape for mask in masks} == {(high, 16)}
    alone = [sam.draw([picture()], [one])[0] for one in asked]
    for one, other in zip(alone, replies, strict=True):  # the same alone and in a batch, up to rounding
        assert one.mask_scores == pytest.approx(other.mask_scores, abs=1e-4)
        for mask, also in zip(one.masks, other.masks, strict=True):
            assert (read_mask(mask) != read_mask(also)).mean() < 0.02


@pytest.mark.parametrize("family", SAMS)
def test_box_point_and_picture_all_matter(load: LoadSam, family: str) -> None:
    sam = load(family)
    asked = [prior(MIDDLE), prior(LEFT), prior(MIDDLE, points=((0.3, 0.5),)), prior(MIDDLE)]
    replies = sam.draw([picture()] * 3 + [picture(2)], asked)
    assert len({(reply.masks, reply.mask_scores) for reply in replies}) == 4


@pytest.mark.parametrize("family", ["sam", "sam2", "sam_hq"])
def test_a_picture_is_encoded_once(load: LoadSam, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sam = load(family)
    seen = encodings(sam, monkeypatch)
    sam.draw([picture(3), picture(4), picture(3)], [prior(MIDDLE), prior(LEFT), prior(LEFT)])
    assert len(seen) == 2, "equal pictures are one, whoever opened them"
    sam.draw([picture(3)], [prior(points=((0.3, 0.5),))])
    assert len(seen) == 2, "the last pictures are kept for the next call"
    sam.draw([picture(5)], [Prior.absent("k", "no box", "")])
    assert len(seen) == 2, "there is nothing to draw"
    monkeypatch.setattr("l2l_ray.prior.sam.KEPT_BYTES", 1)
    for seed in (3, 4, 4, 3):
        sam.draw([picture(seed)], [prior(MIDDLE)])
    assert len(seen) == 4, "within the bound, and the last one in any case"


def test_many_boxes_are_drawn_in_parts(load: LoadSam, monkeypatch: pytest.MonkeyPatch) -> None:
    sam = load("sam2")
    boxes = [(x / 20, 0.1, x / 20 + 0.4, 0.9) for x in range(7)]
    whole = sam.draw([picture()], [prior(*boxes)])[0]
    monkeypatch.setattr("l2l_ray.prior.sam.PROMPTS_AT_ONCE", 2)
    parts = sam.draw([picture()], [prior(*boxes)])[0]
    assert len(whole.masks) == 7 and parts.mask_scores == pytest.approx(whole.mask_scores, abs=1e-4)


def test_after_an_error_no_picture_is_kept(load: LoadSam, monkeypatch: pytest.MonkeyPatch) -> None:
    sam = load("sam2")
    seen = encodings(sam, monkeypatch)
    sam.draw([picture(3)], [prior(MIDDLE)])
    with monkeypatch.context() as broken, pytest.raises(MemoryError):
        broken.setattr(sam.model, "forward", lambda **_: (_ for _ in ()).throw(MemoryError))
        sam.draw([picture(3)], [prior(MIDDLE)])
    sam.draw([picture(3)], [prior(MIDDLE)])
    assert len(seen) == 2, "it may be what memory lacked"


def test_bfloat16_is_for_the_encoder(load: LoadSam) -> None:
    exact, rounded = load("sam2"), load("sam2", dtype="bfloat16")
    assert {parameter.dtype for parameter in rounded.model.parameters()} == {torch.float32}
    one, other = (sam.draw([picture()], [prior(MIDDLE, LEFT)])[0] for sam in (exact, rounded))
    assert one.mask_scores != other.mask_scores and len(other.masks) == 2


@pytest.mark.parametrize(
    ("family", "written", "expected"),
    [
        ("sam", None, IMAGENET),
        ("sam2", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))),
        ("sam2", {"size": {"height": 64, "width": 64}}, IMAGENET),
        ("sam3_tracker", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, HALF),
        ("sam3_tracker", None, HALF),
        ("sam3_video", None, HALF),
    ],
)
def test_pixels_are_normalised_as_the_checkpoint_says(
    folders: Callable[[str], Path], family: str, written: dict[str, object] | None, expected: object
) -> None:
    folder = folders(family)
    file = folder / "preprocessor_config.json"
    file.unlink(missing_ok=True)
    if written is not None:
        file.write_text(json.dumps(written))
    sam = Sam.load(config_of(folder))
    file.unlink(missing_ok=True)
    assert sam.statistics == expected
    gray = Image.new("RGB", (64, 64), (51, 51, 51))
    with pytest.MonkeyPatch.context() as patch:
        seen = encodings(sam, patch)
        sam.draw([gray], [prior(MIDDLE)])
    mean, std = (torch.tensor(values) for values in sam.statistics)
    assert torch.allclose(seen[0][0, :, 0, 0], (0.2 - mean) / std)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"image_mean": [0.5], "image_std": [0.5]}', r"image_mean \[0\.5\] .* not 3 numbers each"),
        ('{"image_mean": 0.5, "image_std": 0.5}', r"image_mean 0\.5 .* not 3 numbers each"),
        ('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0, 0.5]}', "those of image_std positive"),
        ('{"image_mean": [0.5, 0.5, 0.5]}', "image_std None, not 3 numbers each"),
        ('{"image_mean": [0.5, 0.5, 0.5], "image_st', "preprocessor_config.json is no JSON object, or not whole"),
    ],
)
def test_statistics_that_are_none_are_refused(folders: Callable[[str], Path], content: str, why: str) -> None:
    folder = folders("sam2")
    (folder / "preprocessor_config.json").write_text(content)
    with pytest.raises(ConfigError, match=rf"prior\.sam_model .* cannot be loaded: .*{why}"):
        Sam.load(config_of(folder))
    (folder / "preprocessor_config.json").unlink()


def test_the_video_checkpoint_of_sam_3_gives_its_own_weights(folders: Callable[[str], Path], load: LoadSam) -> None:
    from safetensors.torch import load_file

    stored = load_file(folders("sam3_video") / "model.safetensors")
    loaded = load("sam3_video").model.state_dict()
    for name, source in {
        "mask_decoder.iou_token.weight": "tracker_model.mask_decoder.iou_token.weight",
        "vision_encoder.backbone.layer_norm.weight": "detector_model.vision_encoder.backbone.layer_norm.weight",
        "vision_encoder.neck.fpn_layers.0.proj1.weight": "tracker_neck.fpn_layers.0.proj1.weight",
    }.items():
        assert torch.equal(loaded[name], stored[source]), name


def test_a_checkpoint_that_lacks_weights_is_refused_and_not_filled_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    SAMS["sam2"](tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ConfigError, match=r"lacks 1 weights of a Sam2Model, as mask_decoder\.iou_token\.weight; expected"
    ):
        Sam.load(config_of(tmp_path))


def test_the_fingerprint_covers_checkpoint_and_arithmetic_where_sam_draws(folders: Callable[[str], Path]) -> None:
    plain, folder = identify_prior(PriorConfig()), folders("sam2")
    with_sam = identify_prior(config_of(folder))
    assert plain.sam == "" and replace(with_sam, sam="") == replace(
        identify_prior(PriorConfig(device="cpu", dtype="float32")), sam=""
    ), "what the MLLM has said is not asked again"
    others = [
        identify_prior(config_of(folder, dtype="bfloat16")),
        identify_prior(config_of(folders("sam"))),
        identify_prior(config_of(folder).model_copy(update={"proposal": "box"})),
    ]
    assert others[2].sam == "" and len({with_sam.sam, *(other.sam for other in others)}) == 4
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed = identify_prior(config_of(folder))
    weights.write_bytes(content)
    assert changed.sam != with_sam.sam == identify_prior(config_of(folder)).sam


def test_what_is_no_sam_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    with pytest.raises(ConfigError, match=r"is a 'bert' model; expected SAM, .*: name one of these, or set"):
        Sam(BertModel(config))
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"prior\.sam_model .* cannot be loaded: .*; expected SAM, SAM-HQ, SAM 2"):
        Sam.load(config_of(tmp_path))
    with pytest.raises(ConfigError, match=r"needs prior\.sam_model, got None"):
        Sam.load(PriorConfig(proposal="sam"))
