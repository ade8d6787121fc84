"""A checkpoint of an encoder that is damaged, incomplete or of another kind is one line that names field and remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from l2l_ray.config import SegmenterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.segmenter.backbone import Backbone
from l2l_ray.segmenter.text import TextEncoder
from tests.tiny_models import save_bert, save_swin

PARTS: dict[str, Callable[[str], object]] = {
    "backbone": lambda folder: Backbone(SegmenterConfig(backbone=folder, image_size=64)),
    "text": lambda folder: TextEncoder(SegmenterConfig(text=folder)),
}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    torch.manual_seed(0)
    save_swin(tmp_path / "backbone")
    save_bert(tmp_path / "text")
    return {part: tmp_path / part for part in PARTS}


def _message(part: str, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        PARTS[part](str(folder))
    message = str(caught.value)
    assert message.startswith(f"segmenter.{part} ") and "expected a" in message and "\n" not in message
    return message


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("share", [0.5, 0.01])
def test_weights_that_are_cut_off(folders: dict[str, Path], part: str, share: float) -> None:
    weights = folders[part] / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    assert "check that its files are whole" in _message(part, folders[part])


@pytest.mark.parametrize("part", PARTS)
def test_code_that_a_checkpoint_brings_is_not_run(folders: dict[str, Path], part: str) -> None:
    path = folders[part] / "config.json"
    content = json.loads(path.read_text())
    content |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    path.write_text(json.dumps(content))
    (folders[part] / "mine.py").write_text("raise SystemExit('it ran')")
    _message(part, folders[part])


def test_an_image_encoder_is_no_text_encoder(folders: dict[str, Path]) -> None:
    _message("text", folders["backbone"])


def test_a_text_encoder_without_its_tokenizer(folders: dict[str, Path]) -> None:
    for path in folders["text"].glob("tokenizer*"):
        path.unlink()
    with pytest.raises(
        ConfigError, match=r"segmenter\.text: the tokenizer of .* knows no words, expected tokenizer.json"
    ):
        TextEncoder(SegmenterConfig(text=str(folders["text"])))


STD = [0.2, 0.2, 0.2]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            json.dumps({"image_mean": [0.5] * 3, "image_std": STD})[:30],
            "its preprocessor_config.json is no JSON object",
        ),
        ("[]", "its preprocessor_config.json is no JSON object"),
        (json.dumps({"image_mean": [0.5] * 3, "image_std": [0.2, 0, 0.2]}), "those of image_std positive"),
        (json.dumps({"image_mean": 0.5, "image_std": STD}), r"image_mean 0\.5 and .* not 3 numbers each"),
        (json.dumps({"image_mean": [0.5], "image_std": [0.5]}), r"image_mean \[0\.5\] and .* not 3 numbers each"),
        (json.dumps({"image_mean": [float("nan")] * 3, "image_std": STD}), "not 3 numbers each"),
        (json.dumps({"image_std": STD}), "image_mean None and .* not 3 numbers each"),
    ],
)
def test_pixel_statistics_that_cannot_be_read_are_not_taken_for_absent_ones(
    folders: dict[str, Path], content: str, why: str
) -> None:
    (folders["backbone"] / "preprocessor_config.json").write_text(content)
    assert re.search(why, _message("backbone", folders["backbone"]))
