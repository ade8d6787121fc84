"""A user's relative paths mean the folder of the command, in every process; where nobody knows to what, they do not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.config.places import below, require_run_name, settled, settled_file, settled_model
from l2l_ray.errors import ConfigError


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in a process that `ray job submit` started, as Ray tells it."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")


def _with_paths(split_file: str) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run_root": "runs",
            "data": {"root": "refer", "dataset": "mine", "split_by": "own", "split_file": split_file},
            "prior": {"model": "models/mllm", "sam_model": "owner/sam"},
            "segmenter": {"backbone": "models/swin"},
        }
    )


def test_every_path_of_a_config_is_settled_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mllm", "swin"):
        (tmp_path / "models" / name).mkdir(parents=True)
    rooted = _with_paths("split.txt").rooted()
    monkeypatch.chdir("/")
    assert rooted.root == tmp_path / "runs"
    assert (rooted.data.root, rooted.data.split_file) == (str(tmp_path / "refer"), str(tmp_path / "split.txt"))
    assert rooted.prior.model == str(tmp_path / "models/mllm") and rooted.prior.sam_model == "owner/sam"
    assert rooted.segmenter.backbone == str(tmp_path / "models/swin") and rooted.segmenter.text == "embedded"
    assert rooted.rooted() == rooted


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cache", "cache and data hold what runs share"),
        ("data/first", "cache and data hold what runs share"),
        ("a/b/c/d/e", "it has 5 names with slashes between, and runs are looked for 4 deep"),
        ("a/.hidden", "folders that begin with a dot are not looked into"),
        ("a /b", "a name in it begins or ends with a blank"),
        ("two\nlines", "it has a character that ends a line or controls a terminal"),
    ],
)
def test_what_no_list_would_show_is_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^--name cannot be {re.escape(repr(name))}: {why}.*; choose another$"):
        require_run_name("--name", name)


@pytest.mark.parametrize("name", ["mine", "a/b/c/d", "写真　1", "two words", "data2", "v1.0", "~x", "-x"])
def test_any_name_that_people_can_read_is_taken(name: str) -> None:
    require_run_name("--name", name)
    assert below(name) == name


def test_the_home_folder_of_nobody_is_named() -> None:
    for words in ("~nosuch", "~nosuch/runs"):
        with pytest.raises(ConfigError, match=f"^{words} begins with the home folder of nobody here; give the path"):
            settled("run_root", words)
        with pytest.raises(ConfigError, match="home folder of nobody"):
            _ = RunConfig(run_root=words).root


def test_a_store_is_a_place_of_its_own() -> None:
    config = RunConfig.model_validate(
        {"run_root": "s3://bucket/runs", "data": {"root": "s3://bucket/refer", "dataset": "mine", "split_by": "own"}}
    ).rooted()
    assert str(config.run_dir) == "s3://bucket/runs/mine-l2l-s0" and config.data.root == "s3://bucket/refer"
    assert str(config.cache_dir) == "s3://bucket/runs/cache" and config.scratch_dir.is_dir() is False
    assert "://" not in str(config.scratch_dir)


@pytest.mark.usefixtures("submitted")
def test_in_a_submitted_job_a_relative_path_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "split.txt").write_text("")
    for setting in (settled, settled_model):
        with pytest.raises(ConfigError, match=r"some\.field is relative, got 'model', and a submitted job .* absolute"):
            setting("some.field", "model")
    assert settled_model("prior.model", "owner/name") == "owner/name"
    assert settled_file("data.split_file", "split.txt") == "split.txt", "it was sent along"
    with pytest.raises(ConfigError, match=r"data\.split_file is 'no\.txt', .* --working-dir"):
        settled_file("data.split_file", "no.txt")
    assert settled("run_root", "/shared") == "/shared" and settled("run_root", "s3://b/r") == "s3://b/r"
    with pytest.raises(ConfigError, match="run_root is relative, got 'runs'"):
        RunConfig(run_root="runs").rooted()
