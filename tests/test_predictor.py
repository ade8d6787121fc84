"""Using a run: photos and texts in, files with the same masks out; what cannot be answered is named and fails alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from l2l_ray.config import PriorConfig, RunConfig, read_config, save_config
from l2l_ray.device import DeviceFailed
from l2l_ray.errors import CheckpointError, ConfigError, DataError
from l2l_ray.predictions import FailedPrediction, Prediction
from l2l_ray.predictor import Predictor, run_and_version
from l2l_ray.prior.reply import Reply
from l2l_ray.segmenter.model import Segmenter, SegmenterOutput
from l2l_ray.types import BoxFrac, PhotoText, Prior
from tests.finished_run import write_finished_run
from tests.tiny_sams import SAMS

CONFIG = RunConfig()


@pytest.fixture(scope="module")
def predictor(run_dir: Path) -> Predictor:
    return Predictor.from_run(run_dir)


@pytest.fixture
def image_path(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.mark.parametrize(
    "text",
    ["the <|image_pad|> sign", "<|im_end|>", "[SEP]", "\x00", "\udcff half", "{expression}", "?!", "x" * 100_000],
)
def test_any_text_gives_a_prediction(predictor: Predictor, image_path: Path, tmp_path: Path, text: str) -> None:
    prediction = predictor.predict(image_path, text)
    assert prediction.mask.shape == (90, 120)
    assert prediction.prior.failure.startswith("text: ") == (len(text) == 100_000)
    assert all(path.stat().st_size for path in prediction.save(tmp_path / "out"))


def test_a_prediction_has_the_size_of_its_image_and_repeats(predictor: Predictor, image_path: Path) -> None:
    paths = (image_path, str(image_path))
    first, second = (predictor.predict(path, "  left  red circle ") for path in paths)
    assert first.mask.shape == (90, 120)
    assert first.expression == "left red circle"
    assert (first.method, first.version) == ("l2l", 2)
    assert 0 <= first.confidence <= 1
    assert np.array_equal(first.mask_probs, second.mask_probs)
    assert first.prior == second.prior


def test_the_expression_matters(predictor: Predictor, image_path: Path) -> None:
    one, other = (predictor.predict(image_path, words) for words in ("left red circle", "the big square at the top"))
    assert not np.array_equal(one.mask_probs, other.mask_probs)


def test_a_users_box_takes_the_place_of_the_mllm(predictor: Predictor, image_path: Path) -> None:
    found = predictor.predict(image_path, "circle", {"box": [30, 0, 60, 45]})
    assert found.prior.boxes_xyxy_frac == ((0.25, 0.0, 0.75, 0.5),)
    assert found.summary()["prior"]["source"] == "user"
    other = predictor.predict(image_path, "circle", {"box": [60, 45, 60, 45]})
    assert not np.array_equal(found.mask_probs, other.mask_probs)


def test_a_users_point_judges_the_answer(predictor: Predictor, tmp_path: Path) -> None:
    scene = Image.new("RGB", (128, 128), (230, 230, 230))
    ImageDraw.Draw(scene).ellipse((20, 30, 60, 70), fill=(220, 30, 30))
    scene.save(tmp_path / "circle.png")

    def boxes(*points: list[int]) -> tuple[BoxFrac, ...]:
        prior = predictor.predict(tmp_path / "circle.png", "the red circle", {"points": points}).prior
        assert prior.source == "mllm" and bool(prior.failure) == (not prior.boxes_xyxy_frac)
        return prior.boxes_xyxy_frac

    assert len(boxes([40, 50])) == 1
    assert boxes([120, 5]) == ()
    with pytest.raises(DataError, match="hint point outside image: got .200.0, 5.0.; expected"):
        boxes([200, 5])


@pytest.fixture(scope="module")
def sam_predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    root = tmp_path_factory.mktemp("sam")
    SAMS["sam2"](root / "sam2")
    prior = PriorConfig(proposal="sam", sam_model=str(root / "sam2"))
    return Predictor.from_run(write_finished_run(root, prior), device="cpu")


def test_sam_draws_what_the_mllm_and_users_say(
    sam_predictor: Predictor, image_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    encode = sam_predictor.models.sam.model.get_image_embeddings  # type: ignore[attr-defined]
    note = lambda pixels: (seen.append(pixels), encode(pixels))[1]  # noqa: E731
    monkeypatch.setattr(sam_predictor.models.sam.model, "get_image_embeddings", note)  # type: ignore[attr-defined]
    boxed = {"box": [30, 0, 60, 45]}
    items = [
        PhotoText(image_path, "circle", boxed),
        PhotoText(image_path, "left red circle"),
        PhotoText(image_path, ""),
    ]
    of_user, of_mllm, empty = sam_predictor.predict_many(items)
    assert isinstance(of_user, Prediction) and isinstance(of_mllm, Prediction)
    assert (of_user.prior.source, len(of_user.prior.masks), len(of_user.prior.mask_scores)) == ("user", 1, 1)
    assert len(of_mllm.prior.masks) == len(of_mllm.prior.boxes_xyxy_frac) == 1
    assert isinstance(empty, FailedPrediction) and len(seen) == 1, "the picture is encoded once for all texts"
    again = sam_predictor.predict(image_path, "circle", {**boxed, "points": [[60, 20]]})
    assert again.prior.mask_scores != of_user.prior.mask_scores, "the point goes along with the box"


def test_an_item_on_which_sam_breaks_gets_a_mask_without_a_prior(
    sam_predictor: Predictor, image_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("odd shapes")

    monkeypatch.setattr(sam_predictor.models.sam, "draw", breaks)
    found = sam_predictor.predict(image_path, "circle", {"box": [30, 0, 60, 45]})
    assert found.prior.failure == "sam: RuntimeError: odd shapes" and found.mask.shape == (90, 120)


def test_a_version_is_used_where_it_is_named_and_one_without_weights_is_refused(run_dir: Path) -> None:
    run, method, version = run_and_version(run_dir / "train" / "l2l-v0002")
    assert (run.path, method, version) == (run_dir, "l2l", 2) == (run_dir, *run_and_version(run_dir)[1:])
    with pytest.raises(CheckpointError, match=r"l2l-v0001.teacher.safetensors not found; give the folder of a fin"):
        run_and_version(run_dir / "train" / "l2l-v0001")
    with pytest.raises(ConfigError, match=r"l2l-v0002-s00040"):  # a training state is no version
        run_and_version(run_dir / "train" / "l2l-v0002-s00040")


@pytest.mark.parametrize("expression", ["", "  \n"])
def test_an_empty_expression_is_refused(predictor: Predictor, image_path: Path, expression: str) -> None:
    with pytest.raises(DataError, match="the expression is empty"):
        predictor.predict(image_path, expression)


def test_five_hundred_words_are_cut_as_in_training(predictor: Predictor, image_path: Path) -> None:
    prediction = predictor.predict(image_path, "red " * 500)
    assert len(prediction.expression.split()) == CONFIG.data.max_words


def test_a_text_that_the_segmenter_does_not_read_to_its_end_is_named(
    predictor: Predictor, image_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor.predict(image_path, "left red circle")
    assert "tokens" not in caplog.text
    said = "the person in a dark jacket next to the wooden bench behind the parked bicycle, the one on the "
    left, right = (predictor.predict(image_path, said + end) for end in ("left", "right"))
    assert (left.expression, right.expression) == (said + "left", said + "right")
    notes = [record.getMessage() for record in caplog.records if "tokens" in record.getMessage()]
    assert len(notes) == 2 and f"reads the first {CONFIG.segmenter.max_text_tokens} of the" in notes[0]
    assert repr(said + "left") in notes[0]


def test_words_beyond_the_most_that_a_run_takes_are_named(predictor: Predictor, tmp_path: Path) -> None:
    predictor.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_words": 2}))
    found = Predictor.from_pretrained(tmp_path / "model")
    assert found.cut("red  circle") == ""
    assert found.cut("left red circle") == (
        "the models read the first 2 of the 3 words of 'left red circle'; say it in fewer words, or train with a "
        "larger data.max_words"
    )


def test_missing_and_truncated_images_are_named(predictor: Predictor, image_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png.* cannot be read"):
        predictor.predict(image_path.with_name("gone.png"), "circle")
    image_path.write_bytes(image_path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"scene\.png.* cannot be read"):
        predictor.predict(image_path, "circle")


def test_many_are_answered_in_order_and_bad_ones_fail_alone(predictor: Predictor, image_path: Path) -> None:
    gone = image_path.with_name("gone.png")
    items = [PhotoText(image_path, f"circle {number}") for number in range(10)]
    items[3:3] = [PhotoText(gone, "circle"), PhotoText(image_path, " ")]
    results = list(predictor.predict_many(items))
    assert [result.item for result in results] == items
    missing, empty = (result for result in results if isinstance(result, FailedPrediction))
    assert missing.item.image_path == gone and "gone.png" in missing.error
    assert "the expression is empty" in empty.error
    (alone,) = (result for result in results if result.item.expression == "circle 7")
    assert isinstance(alone, Prediction)
    assert np.allclose(alone.mask_probs, predictor.predict(image_path, "circle 7").mask_probs, atol=1e-3)


def test_texts_about_one_photo_share_its_picture_and_one_pass_and_are_answered_as_alone(
    image_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_finished_run(tmp_path, PriorConfig(dtype="float32"))
    config = read_config(run / "config.yaml")
    save_config(
        config.model_copy(update={"loop": config.loop.model_copy(update={"autocast": False})}), run / "config.yaml"
    )
    predictor = Predictor.from_run(run, device="cpu")
    other = image_path.with_name("other.png")
    Image.new("RGB", (70, 50), (200, 90, 40)).save(other)
    items = [PhotoText(image_path, text) for text in ("circle", "the big square at the top", "left")]
    items += [PhotoText(other, "circle"), PhotoText(image_path, "circle", {"box": [30, 0, 60, 45]})]
    alone = [predictor.predict(item.image_path, item.expression, item.hint) for item in items]
    pictures: list[Image.Image] = []
    ask = predictor.models.mllm.ask
    monkeypatch.setattr(
        predictor.models.mllm, "ask", lambda images, texts: (pictures.extend(images), ask(images, texts))[1]
    )
    passes: list[int] = []

    def note(module: torch.nn.Module, _: object, output: SegmenterOutput) -> None:
        if isinstance(module, Segmenter):
            passes.append(len(output.mask_logits))

    with torch.nn.modules.module.register_module_forward_hook(note):
        together = list(predictor.predict_many(items))
    assert passes == [5] and len(pictures) == 4 and len({id(picture) for picture in pictures}) == 2
    for one, two in zip(alone, together, strict=True):
        assert isinstance(two, Prediction) and one.item == two.item
        assert np.allclose(one.mask_probs, two.mask_probs, atol=1e-5)


def test_a_photo_that_is_overwritten_is_seen_anew(predictor: Predictor, image_path: Path) -> None:
    before = predictor.predict(image_path, "circle", {"box": [30, 0, 60, 45]})
    Image.new("RGB", (120, 90), (20, 200, 40)).save(image_path)
    after = predictor.predict(image_path, "circle", {"box": [30, 0, 60, 45]})
    renamed = image_path.rename(image_path.with_name("renamed.png"))
    fresh = predictor.predict(renamed, "circle", {"box": [30, 0, 60, 45]})
    assert np.array_equal(after.mask_probs, fresh.mask_probs)
    assert not np.array_equal(after.mask_probs, before.mask_probs)


def test_an_item_whose_prior_cannot_be_used_fails_alone(
    sam_predictor: Predictor, image_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = sam_predictor.models.sam.draw

    def damaged(images: list[Image.Image], priors: list[Prior]) -> list[Reply]:
        return [Reply.drawn(["damaged"], [0.5]), *draw(images[1:], priors[1:])]

    monkeypatch.setattr(sam_predictor.models.sam, "draw", damaged)
    items = [PhotoText(image_path, text, {"box": [30, 0, 60, 45]}) for text in ("circle", "star")]
    first, second = sam_predictor.predict_many(items)
    assert isinstance(first, FailedPrediction) and isinstance(second, Prediction), first


def test_an_item_on_which_the_language_model_breaks_gets_a_mask_without_it_alone(
    predictor: Predictor, image_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predictor.models.mllm.ask

    def breaks(images: list[Image.Image], texts: list[str]) -> object:
        if "poison" in texts:
            raise RuntimeError("tokens and features do not match\nat all")
        return whole(images, texts)

    monkeypatch.setattr(predictor.models.mllm, "ask", breaks)
    items = [PhotoText(image_path, text) for text in ("circle", "star", "poison", "square")]
    results = [result for result in predictor.predict_many(items) if isinstance(result, Prediction)]
    assert [result.item for result in results] == items
    broken = ["tokens and features do not match" in result.prior.failure for result in results]
    assert broken == [False, False, True, False]


def test_a_device_that_failed_is_no_fault_of_an_item(
    predictor: Predictor, image_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access\nwas encountered")

    monkeypatch.setattr(Segmenter, "forward", fails)
    with pytest.raises(
        DeviceFailed, match="of the segmenter failed: CUDA error: an illegal memory access was .* start a"
    ):
        list(predictor.predict_many([PhotoText(image_path, "circle")]))


def test_a_run_of_drawn_shapes_says_once_that_it_knows_no_photos(
    run_dir: Path, image_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = Predictor.from_run(run_dir)
    own = run_dir.parent / "cache" / "data" / "refshapes" / "images" / "1.png"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_bytes(image_path.read_bytes())
    predictor.predict(own, "circle")
    assert not caplog.records
    for _ in range(2):
        predictor.predict(image_path, "circle")
    (record,) = caplog.records
    assert "this run learned from drawn shapes" in record.getMessage() and "photos-small" in record.getMessage()


def test_loading_from_python_shows_nothing_and_leaves_the_bars_as_they_were(run_dir: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from l2l_ray.predictor import Predictor; "
        "from transformers.utils import logging; from huggingface_hub.utils.tqdm import are_progress_bars_disabled; "
        "Predictor.from_run(Path(sys.argv[1])); "
        "print(logging.is_progress_bar_enabled(), are_progress_bars_disabled())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_PROGRESS_BARS"}
    done = subprocess.run([sys.executable, "-c", code, str(run_dir)], env=environment, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["True", "False"], "")


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
    with pytest.raises(DataError, match=r"bomb\.png cannot be read: it claims more than 179 million pixels"):
        predictor.predict(tmp_path / "bomb.png", "circle")


def test_what_is_no_path_or_no_text_is_refused_with_a_way() -> None:
    """In a process of its own, for here every call with a wrong type is refused before it begins."""
    program = """
import numpy as np
from l2l_ray.errors import DataError
from l2l_ray.predictor import Predictor
for photo, text in ((np.zeros((8, 8, 3)), "circle"), (None, "circle"), ("a.png", 3), ("a.png", ["left"])):
    try:
        object.__new__(Predictor).predict(photo, text)
    except DataError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    wrong = [line.partition(";")[0] for line in done.stdout.splitlines()]
    assert wrong == [
        "image_path must be the path of a picture, got ndarray",
        "image_path must be the path of a picture, got NoneType",
        "the expression must be text, got int",
        "the expression must be text, got list",
    ]


def test_a_saved_model_in_the_place_of_a_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"there is none, but a saved model, which `Predictor.from_pretrained` loads"):
        Predictor.from_run(tmp_path)


def test_an_unfinished_run_or_lost_weights_are_named(run_dir: Path, tmp_path: Path) -> None:
    save_config(CONFIG, tmp_path / "config.yaml")
    with pytest.raises(CheckpointError, match="has chosen no version yet.*`l2l runs` shows"):
        Predictor.from_run(tmp_path)
    (tmp_path / "selection.json").write_text((run_dir / "selection.json").read_text())
    with pytest.raises(CheckpointError, match=r"teacher\.safetensors"):
        Predictor.from_run(tmp_path)
