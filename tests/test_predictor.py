"""Using a run: an image and an expression in, files with the same mask out, and clear errors for unusable input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from l2l_ray.config import RunConfig, SegmenterConfig, save_config
from l2l_ray.data.masks import decode
from l2l_ray.errors import CheckpointError, DataError
from l2l_ray.loop.state.checkpoint import save_weights
from l2l_ray.loop.state.example_files import write_priors
from l2l_ray.predictor import OVERLAY_RGB, Prediction, Predictor
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.types import Prior

PRIOR = Prior("", ((0.1, 0.2, 0.5, 0.6),), (0.8,), (), "circle", 0.8, "", "[]")
CONFIG = RunConfig(segmenter=SegmenterConfig(pretrained=False))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a finished run whose teacher has random weights."""
    folder = tmp_path_factory.mktemp("run")
    save_config(CONFIG, folder / "config.yaml")
    (folder / "selection.json").write_text(json.dumps({"method": "l2l", "version": 2}))
    version = folder / "train" / "l2l-v0002"
    version.mkdir(parents=True)
    torch.manual_seed(0)
    save_weights(Segmenter(CONFIG.segmenter), version / "teacher.safetensors")
    write_priors(folder / "priors" / "labeled.parquet", [(1, PRIOR)])
    return folder


@pytest.fixture(scope="module")
def predictor(run_dir: Path) -> Predictor:
    return Predictor.from_run(run_dir)


@pytest.fixture
def image_path(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def test_a_prediction_has_the_size_of_its_image_and_repeats(predictor: Predictor, image_path: Path) -> None:
    first, second = (predictor.predict(image_path, "  left  red circle ") for _ in range(2))
    assert first.mask.shape == (90, 120)
    assert first.expression == "left red circle"
    assert (first.method, first.version) == ("l2l", 2)
    assert 0 <= first.confidence <= 1
    assert np.array_equal(first.mask_probs, second.mask_probs)
    assert first.prior == second.prior


def test_the_expression_matters(predictor: Predictor, image_path: Path) -> None:
    one, other = (predictor.predict(image_path, words) for words in ("left red circle", "the big square at the top"))
    assert not np.array_equal(one.mask_probs, other.mask_probs)


def test_the_three_files_hold_the_same_mask(tmp_path: Path) -> None:
    image = np.full((4, 6, 3), 100, np.uint8)
    probs = np.zeros((4, 6), np.float32)
    probs[1:3, 2:5] = 0.75
    probs[0, :2] = 0.25
    prediction = Prediction(Path("scene.jpg"), "circle", image, probs, PRIOR, "l2l", 2)
    overlay, mask, figures = prediction.save(tmp_path / "out")
    assert [path.name for path in (overlay, mask, figures)] == ["scene-overlay.png", "scene-mask.png", "scene.json"]
    assert np.array_equal(np.asarray(Image.open(mask)) == 255, prediction.mask)
    summary = json.loads(figures.read_text())
    assert np.array_equal(decode(summary["mask_rle"]), prediction.mask)
    assert (summary["area_px"], summary["prior"]["phrase"]) == (6, "circle")
    assert summary["confidence"] == pytest.approx(6 * 0.75 / (6 + 2 * 0.25))
    tinted = np.asarray(Image.open(overlay))
    assert np.array_equal(tinted[0, 0], [100, 100, 100])
    assert np.array_equal(tinted[1, 2], np.round((100 + np.array(OVERLAY_RGB)) / 2).astype(np.uint8))


@pytest.mark.parametrize("expression", ["", "  \n"])
def test_an_empty_expression_is_refused(predictor: Predictor, image_path: Path, expression: str) -> None:
    with pytest.raises(DataError, match="the expression is empty"):
        predictor.predict(image_path, expression)


def test_five_hundred_words_are_cut_as_in_training(predictor: Predictor, image_path: Path) -> None:
    prediction = predictor.predict(image_path, "red " * 500)
    assert len(prediction.expression.split()) == CONFIG.data.max_words


def test_missing_and_truncated_images_are_named(predictor: Predictor, image_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        predictor.predict(image_path.with_name("gone.png"), "circle")
    image_path.write_bytes(image_path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"scene\.png cannot be read"):
        predictor.predict(image_path, "circle")


def test_a_turned_photo_is_predicted_as_people_see_it(predictor: Predictor, image_path: Path, tmp_path: Path) -> None:
    expected = predictor.predict(image_path, "circle")
    with Image.open(image_path) as picture:
        lying = picture.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to show it
    lying.save(tmp_path / "lying.png", exif=exif)
    found = predictor.predict(tmp_path / "lying.png", "circle")
    assert np.array_equal(found.image, expected.image)
    assert np.array_equal(found.mask_probs, expected.mask_probs)
    assert found.prior.boxes_xyxy_frac == expected.prior.boxes_xyxy_frac


@pytest.mark.parametrize("name", ["gray16.png", "gray16be.tif"])
def test_16_bits_are_predicted_and_shown_as_8_are(predictor: Predictor, name: str) -> None:
    folder = Path(__file__).parent / "cases/09/ph"
    deep, plain = (predictor.predict(folder / file, "circle") for file in (name, "gray8.png"))
    assert np.array_equal(deep.overlay(), plain.overlay()) and plain.image.max() < 255
    assert np.array_equal(deep.mask_probs, plain.mask_probs)


def test_a_bomb_is_refused_in_one_line(predictor: Predictor, tmp_path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match=r"bomb\.png cannot be read: it claims more than 89 million pixels"):
        predictor.predict(tmp_path / "bomb.png", "circle")


def test_an_unfinished_run_or_lost_weights_are_named(run_dir: Path, tmp_path: Path) -> None:
    save_config(CONFIG, tmp_path / "config.yaml")
    with pytest.raises(CheckpointError, match="has chosen no version yet.*--resume"):
        Predictor.from_run(tmp_path)
    (tmp_path / "selection.json").write_text((run_dir / "selection.json").read_text())
    with pytest.raises(CheckpointError, match=r"teacher\.safetensors"):
        Predictor.from_run(tmp_path)
