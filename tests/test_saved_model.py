"""A model as a folder of its own: the same masks as the run it comes from, no pickle, and what its card says."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from l2l_ray import cli
from l2l_ray.config import PriorConfig, RunConfig, SegmenterConfig
from l2l_ray.errors import CheckpointError, ConfigError
from l2l_ray.predictor import Predictor
from l2l_ray.prior.mllm import MllmPrior
from l2l_ray.saved_model import Facts, fetch, model_card, open_model, push, save_model
from l2l_ray.segmenter.model import Segmenter
from tests.tiny_models import save_bert, save_swin


@pytest.fixture(scope="module")
def mllm() -> MllmPrior:
    return MllmPrior.load(PriorConfig(dtype="float32"))


@pytest.fixture(scope="module")
def saved(run_dir: Path, mllm: MllmPrior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    Predictor.from_run(run_dir, mllm).save_pretrained(folder)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def test_a_saved_model_predicts_as_its_run(run_dir: Path, saved: Path, mllm: MllmPrior, photo: Path) -> None:
    moved = photo.parent / "moved"
    shutil.copytree(saved, moved)
    of_run, of_model = Predictor.from_run(run_dir, mllm), Predictor.from_pretrained(moved, mllm)
    one, other = (model.predict(photo, "left red circle") for model in (of_run, of_model))
    assert np.array_equal(one.mask_probs, other.mask_probs)
    assert (other.method, other.version) == ("l2l", 2)


def test_saved_again_it_is_the_same(saved: Path, mllm: MllmPrior, tmp_path: Path) -> None:
    Predictor.from_pretrained(saved, mllm).save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_nothing_in_it_is_pickled(saved: Path) -> None:
    assert {path.name for path in saved.rglob("*")} == {"config.json", "model.safetensors", "README.md"}


def test_encoders_from_elsewhere_are_built_from_the_folder_alone(tmp_path: Path, mllm: MllmPrior, photo: Path) -> None:
    sources = {"backbone": tmp_path / "swin", "text": tmp_path / "bert"}
    save_swin(sources["backbone"], image_size=64)
    save_bert(sources["text"])
    said = sources["text"] / "tokenizer_config.json"
    said.write_text(json.dumps({**json.loads(said.read_text()), "padding_side": "left"}))
    section = SegmenterConfig(
        **{name: str(place) for name, place in sources.items()}, image_size=64, fusion_stride=16, pretrained=False
    )
    config = RunConfig(segmenter=section)
    segmenter = Segmenter(section)
    save_model(tmp_path / "model", segmenter, config, Facts("l2l", 1, (0.5,)))
    for place in sources.values():
        shutil.rmtree(place)
    # Graphs are given what this tokenizer makes.
    assert AutoTokenizer.from_pretrained(tmp_path / "model/text").padding_side == "right"
    found, _ = open_model(tmp_path / "model")
    assert found.segmenter.backbone == str(tmp_path / "model" / "backbone")
    prediction = Predictor.from_pretrained(tmp_path / "model", mllm).predict(photo, "the cup")
    assert prediction.mask.shape == (90, 120)
    text = (tmp_path / "model" / "config.json").read_text() + (tmp_path / "model" / "README.md").read_text()
    assert str(tmp_path) not in text


def test_the_card_says_what_it_learned_and_reached() -> None:
    facts = Facts(
        "l2l", 3, (), {"dataset": "mine", "split_by": "own", "num_labeled": 12, "num_unlabeled": 48, "seed": 7},
        {"val": {"mean_iou": 0.4123, "overall_iou": 0.5}},
    )  # fmt: skip
    card = model_card(RunConfig(), facts)
    assert card.startswith("---\n") and "library_name: l2l-ray" in card
    assert "mine (own), 12 labeled texts and 48 unlabeled ones; seed 7" in card and "| val | 41.2% | 50.0% |" in card
    assert "drawn shapes" in model_card(RunConfig(), Facts("l2l", 1, (), {"drawn": True}))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"library_name": "timm"}', '{"library_name": "l2l-ray", "format": 99}']
)
def test_what_is_no_saved_model_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="holds no saved model that this version"):
        open_model(tmp_path)


def test_damaged_weights_are_named(saved: Path, mllm: MllmPrior, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*; download it again, or save it again"):
        Predictor.from_pretrained(tmp_path / "cut", mllm)


def test_a_name_that_is_nowhere_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="'me/nothing' is no folder, and the hub does not give it") as raised:
        fetch("me/nothing")
    assert "\n" not in str(raised.value)
    with pytest.raises(CheckpointError, match="is no folder"):
        fetch("not an id!")


def test_a_run_is_not_written_over(run_dir: Path, mllm: MllmPrior) -> None:
    with pytest.raises(ConfigError, match="is a run's folder"):
        Predictor.from_run(run_dir, mllm).save_pretrained(run_dir)


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors", "notes/today.txt"])
@pytest.mark.parametrize("more", [(), ("--onnx", "--push", "me/model")])
def test_what_is_no_saved_model_is_not_written_over(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, more: tuple[str, ...]
) -> None:
    mine = tmp_path / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text('{"library_name": "timm"}')
    assert cli.main(["save", str(run_dir), str(tmp_path / "mine"), *more]) == 1
    assert f"{tmp_path / 'mine'} is there and holds no model of `l2l save`" in capsys.readouterr().err
    assert [path for path in (tmp_path / "mine").rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == '{"library_name": "timm"}'


def test_an_empty_folder_and_an_earlier_model_are_written_over(run_dir: Path, mllm: MllmPrior, tmp_path: Path) -> None:
    predictor = Predictor.from_run(run_dir, mllm)
    (folder := tmp_path / "model").mkdir()
    for name in ("notes.txt", "mine/notes.txt", "segmenter.pt2", "segmenter.onnx.data", "backbone/config.json"):
        predictor.save_pretrained(folder)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
        (folder / "README.md").write_text("an earlier card")
    (folder / "link").symlink_to("mine")
    predictor.save_pretrained(folder)
    left = {"config.json", "model.safetensors", "README.md", "notes.txt", "mine", "link"}
    assert {path.name for path in folder.iterdir()} == left, "graphs and encoders of an earlier model are gone"
    assert (folder / "link/notes.txt").read_text() == "x" and (folder / "link").is_symlink()
    assert "an earlier card" not in (folder / "README.md").read_text()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.fixture
def encoders(tmp_path: Path) -> dict[str, SegmenterConfig]:
    """Give two sections whose encoders lie in folders of their own; those of the first say their mean and deviation."""
    sections = {}
    for name in ("one", "other"):
        save_swin(tmp_path / name / "swin", image_size=64)
        save_bert(tmp_path / name / "bert")
        sections[name] = SegmenterConfig(
            backbone=str(tmp_path / name / "swin"), text=str(tmp_path / name / "bert"), image_size=64, fusion_stride=16
        )
    said = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "one/swin/preprocessor_config.json").write_text(json.dumps(said))
    return sections


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_over_a_model_of_other_encoders_the_same_is_written_as_into_a_new_folder(
    encoders: dict[str, SegmenterConfig], tmp_path: Path
) -> None:
    for place, names in (("over", ("one", "other")), ("new", ("other",))):
        for name in names:
            torch.manual_seed(0)
            section = encoders[name]
            save_model(tmp_path / place, Segmenter(section), RunConfig(segmenter=section), Facts("l2l", 1, ()))
    assert _files(tmp_path / "over") == _files(tmp_path / "new")
    means = {name: Segmenter(section).backbone.mean.flatten().tolist() for name, section in encoders.items()}
    opened, _ = open_model(tmp_path / "over")
    found = Segmenter(opened.segmenter.model_copy(update={"pretrained": False})).backbone.mean.flatten().tolist()
    assert found == means["other"] != means["one"]


def test_a_saved_model_sees_pixels_as_the_segmenter_does_whatever_its_source_says_now(
    encoders: dict[str, SegmenterConfig], tmp_path: Path
) -> None:
    segmenter = Segmenter(encoders["one"])
    (tmp_path / "one/swin/preprocessor_config.json").unlink()
    save_model(tmp_path / "model", segmenter, RunConfig(segmenter=encoders["one"]), Facts("l2l", 1, ()))
    opened, _ = open_model(tmp_path / "model")
    found = Segmenter(opened.segmenter.model_copy(update={"pretrained": False})).backbone
    assert torch.equal(found.mean, segmenter.backbone.mean) and torch.equal(found.std, segmenter.backbone.std)


def test_a_save_that_fails_leaves_the_earlier_model_as_it_was(
    encoders: dict[str, SegmenterConfig], tmp_path: Path
) -> None:
    one, other = encoders.values()
    save_model(tmp_path / "model", Segmenter(one), RunConfig(segmenter=one), Facts("l2l", 1, ()))
    (tmp_path / "model/segmenter.onnx").write_text("a graph")
    before = _files(tmp_path / "model")
    segmenter = Segmenter(other)
    shutil.rmtree(tmp_path / "other/bert")
    with pytest.raises(ConfigError, match="segmenter.text"):
        save_model(tmp_path / "model", segmenter, RunConfig(segmenter=other), Facts("l2l", 1, ()))
    assert _files(tmp_path / "model") == before
    assert {path.name for path in tmp_path.iterdir()} == {"model", "one", "other"}


def test_without_the_packages_of_onnx_the_earlier_model_stays(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    save_model(folder, Segmenter(SegmenterConfig()), RunConfig(), Facts("l2l", 1, ()))
    (folder / "segmenter.onnx").write_text("a graph")
    before = _files(folder)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert cli.main(["save", str(run_dir), str(folder), "--onnx"]) == 1
    assert "ONNX needs packages that are not installed" in capsys.readouterr().err and _files(folder) == before


def test_an_opened_model_is_saved_over_itself(
    encoders: dict[str, SegmenterConfig], mllm: MllmPrior, tmp_path: Path
) -> None:
    section = encoders["one"]
    save_model(tmp_path / "model", Segmenter(section), RunConfig(segmenter=section), Facts("l2l", 1, ()))
    before = _files(tmp_path / "model")
    Predictor.from_pretrained(tmp_path / "model", mllm).save_pretrained(tmp_path / "model")
    after = _files(tmp_path / "model")
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} == {"README.md"}


def test_a_file_in_the_folders_place_stays(saved: Path, mllm: MllmPrior, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(ConfigError, match="model is there and holds no model"):
        Predictor.from_pretrained(saved, mllm).save_pretrained(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


def test_a_model_that_cannot_be_written_leaves_nothing_behind(saved: Path, tmp_path: Path) -> None:
    section = SegmenterConfig(text=str(tmp_path / "missing"), pretrained=False)
    with pytest.raises(ConfigError, match="segmenter.text"):
        save_model(tmp_path / "model", Segmenter(SegmenterConfig()), RunConfig(segmenter=section), Facts("l2l", 1, ()))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="check its place and permissions, or give another folder$"):
        save_model(tmp_path / "file/model", Segmenter(SegmenterConfig()), RunConfig(), Facts("l2l", 1, ()))


def test_the_command_says_how_to_open_it(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["save", str(run_dir), str(tmp_path / "model")]) == 0
    assert f"Predictor.from_pretrained('{tmp_path / 'model'}')" in capsys.readouterr().out
    assert json.loads((tmp_path / "model" / "config.json").read_text())["version"] == 2
    assert cli.main(["save", str(tmp_path), str(tmp_path / "other")]) == 1
    assert "config.yaml" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_without_a_network_the_hub_is_one_line(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(
        CheckpointError, match="the hub does not take 'me/model': .*; check the name, the network"
    ) as said:
        push(saved, "me/model")
    assert "\n" not in str(said.value) and str(saved) in str(said.value)
    with pytest.raises(CheckpointError, match="'me/model' is no folder, and the hub does not give it"):
        fetch("me/model")


def test_no_address_is_kept_or_believed(tmp_path: Path) -> None:
    config = RunConfig(prior=PriorConfig(url="http://10.0.0.1:8000/v1", model="Qwen/Qwen3-VL-8B-Instruct"))
    segmenter = Segmenter(SegmenterConfig(pretrained=False))
    save_model(tmp_path / "model", segmenter, config, Facts("l2l", 1, ()))
    path = tmp_path / "model" / "config.json"
    assert "10.0.0.1" not in path.read_text()
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "prior": {**content["prior"], "url": "http://evil.example/v1"}}))
    found, _ = open_model(tmp_path / "model")
    assert found.prior.url is None and found.prior.model == "Qwen/Qwen3-VL-8B-Instruct"
