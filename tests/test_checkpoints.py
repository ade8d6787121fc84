"""A checkpoint that cannot be had is one message, at once, whoever wanted it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers as hf
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from l2l_ray.checkpoints import checkpoint, pixel_statistics
from l2l_ray.config import PriorConfig, SegmenterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.prior.loading import load_prior
from l2l_ray.prior.mllm import MllmPrior
from l2l_ray.prior.sam import Sam
from l2l_ray.segmenter.backbone import Backbone
from l2l_ray.segmenter.text import TextEncoder
from tests.tiny_mllms import save_tiny
from tests.tiny_models import save_bert, save_swin

LOADERS = {
    "prior.model": lambda name: MllmPrior.load(PriorConfig(model=name)),
    "prior.sam_model": lambda name: Sam.load(PriorConfig(proposal="sam", sam_model=name)),
    "segmenter.backbone": lambda name: Backbone(SegmenterConfig(backbone=name)),
    "segmenter.text": lambda name: TextEncoder(SegmenterConfig(text=name)),
}


@pytest.mark.parametrize("setting", LOADERS)
@pytest.mark.parametrize("name", ["no/such/folder", "what a name?", "../gone", ""])
def test_a_name_that_is_no_hub_id_is_one_line(setting: str, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LOADERS[setting](name)
    message = str(caught.value)
    assert message.startswith(f"{setting} {name!r} cannot be loaded: there is no such folder, ")
    assert "expected " in message and "check the spelling" in message and "\n" not in message


@pytest.mark.parametrize("setting", LOADERS)
def test_a_folder_without_a_checkpoint_is_one_line(setting: str, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=rf"{setting} .* cannot be loaded: .*; expected .*; check that its files"
    ) as caught:
        LOADERS[setting](str(tmp_path))
    assert "\n" not in str(caught.value)


def test_without_a_network_an_unknown_hub_id_is_one_line_within_seconds() -> None:
    code = (
        "from l2l_ray.config import PriorConfig\n"
        "from l2l_ray.prior.sam import Sam\n"
        "try: Sam.load(PriorConfig(proposal='sam', sam_model='nowhere/at-all'))\n"
        "except ValueError as error: print(error)"
    )
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "PATH": "/usr/bin:/bin", "NO_PROXY": "*"}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=nobody, check=True)
    assert time.perf_counter() - started < 60
    assert "Retrying" not in done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(
        "prior.sam_model 'nowhere/at-all' cannot be loaded: there is no such folder, the download cache"
    )
    assert (
        "the hub http://127.0.0.1:9 does not answer; expected SAM, SAM-HQ, SAM 2, SAM 3 or EdgeTAM, as a folder" in line
    )


def _with_own_code(folder: Path, name: str, content: dict[str, object]) -> Path:
    """Say in a file of a checkpoint that its classes are those of another, which leaves a mark when it runs."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    auto = {kind: f"mine.{kind}" for kind in ("AutoConfig", "AutoModel", "AutoBackbone", "AutoProcessor")}
    auto["AutoTokenizer"] = ["mine.Slow", "mine.Fast"]
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **content, "auto_map": auto}))
    (folder / "mine.py").write_text(f"open({str(folder / 'it-ran')!r}, 'w')")
    return folder


@pytest.mark.parametrize("setting", LOADERS)
def test_code_of_a_checkpoint_is_not_run_by_whoever_would_say_yes(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_bert(tmp_path)  # for its tokenizer, which is read before the config
    folder = _with_own_code(tmp_path, "config.json", {"model_type": "internvl_chat"})
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    with pytest.raises(ConfigError, match=r"brings code of its own, which is never run; take .*-hf\)") as caught:
        LOADERS[setting](str(folder))
    assert "\n" not in str(caught.value) and not (folder / "it-ran").exists()
    assert "[y/N]" not in capsys.readouterr().out


def test_code_of_a_tokenizer_and_of_a_processor_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_bert(tmp_path / "text")
    mllm = save_tiny("qwen3_vl", tmp_path / "mllm")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    _with_own_code(tmp_path / "text", "tokenizer_config.json", {"tokenizer_class": "Mine"})
    _with_own_code(mllm, "processor_config.json", {"processor_class": "Mine"})
    _with_own_code(mllm, "preprocessor_config.json", {"image_processor_type": "Mine"})
    LOADERS["segmenter.text"](str(tmp_path / "text"))  # transformers' own class reads its files
    with pytest.raises(ConfigError, match="brings code of its own, which is never run") as caught:
        LOADERS["prior.model"](str(mllm))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("it-ran"))


LACKING: dict[str, tuple[str, Callable[[Path], object]]] = {  # a layer's weight -> who saves it
    "prior.model": ("k_proj.weight", lambda folder: save_tiny("qwen3_vl", folder)),
    "prior.model of a detector": ("k_proj.weight", lambda folder: save_tiny("owlv2", folder)),
    "segmenter.backbone": ("key.weight", save_swin),
    "segmenter.text": ("key.weight", save_bert),
}


@pytest.mark.parametrize("of", LACKING)
def test_weights_that_are_missing_are_not_made_up(of: str, tmp_path: Path) -> None:
    setting, (ending, save) = of.split()[0], LACKING[of]
    save(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    del weights[next(name for name in weights if name.endswith(ending))]
    save_file(weights, path, {"format": "pt"})
    load = LOADERS[setting] if setting == of else lambda name: load_prior(PriorConfig(model=name))
    with pytest.raises(ConfigError, match=rf"{setting} .*its file lacks 1 weights of a \w+, as \S+; expected"):
        load(str(path.parent))


def test_what_a_classifier_or_a_language_model_has_in_place_of_an_encoders_ends_is_not_missed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "l2l_ray.checkpoints")
    save_swin(tmp_path / "swin", 64)
    save_bert(tmp_path / "text")
    hf.SwinForImageClassification(hf.SwinConfig.from_pretrained(tmp_path / "swin")).save_pretrained(tmp_path / "swin")
    config = hf.XLMRobertaConfig(**{**hf.BertConfig.from_pretrained(tmp_path / "text").to_dict(), "model_type": None})
    hf.XLMRobertaForMaskedLM(config).save_pretrained(tmp_path / "text")
    Backbone(SegmenterConfig(backbone=str(tmp_path / "swin"), image_size=64))
    LOADERS["segmenter.text"](str(tmp_path / "text"))
    swin, text = (r.getMessage() for r in caplog.records if "begin anew" in r.getMessage())
    assert "lacks 8 weights, which begin anew (first: hidden_states_norms." in swin
    assert "lacks 2 weights, which begin anew (first: pooler." in text


def test_our_own_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^ours$"), checkpoint("prior.model", str(tmp_path), "a model"):
        raise ConfigError("ours")


def test_pixel_statistics_that_the_hub_does_not_give_are_not_taken_for_absent_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_answer(name: str, file: str, **_: object) -> str:
        raise LocalEntryNotFoundError(f"no answer about {file} of {name}")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_answer)
    assert pixel_statistics("owner/swin", {"local_files_only": True}) is None, "the cache says that there is none"
    with pytest.raises(LocalEntryNotFoundError, match=r"no answer about processor_config.json of owner/swin"):
        pixel_statistics("owner/swin", {})
    found = tmp_path / "preprocessor_config.json"
    found.write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    cached = {"processor_config.json": object(), "preprocessor_config.json": str(found)}  # the first: known as absent
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: cached[file])
    assert pixel_statistics("owner/swin", {}) == ((0.5,) * 3, (0.25,) * 3), "of the download cache"
