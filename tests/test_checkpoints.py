"""A checkpoint that cannot be had is one message, at once, whoever wanted it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from l2l_ray.checkpoints import checkpoint
from l2l_ray.config import PriorConfig, SegmenterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.prior.mllm import MllmPrior
from l2l_ray.prior.sam import Sam
from l2l_ray.segmenter.backbone import Backbone
from l2l_ray.segmenter.text import TextEncoder

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


def test_our_own_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^ours$"), checkpoint("prior.model", str(tmp_path), "a model"):
        raise ConfigError("ours")
