"""Defaults that are set before ray is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from l2l_ray.actors import environment, session
from l2l_ray.config import ClusterConfig, RunConfig
from l2l_ray.errors import ClusterError


def test_a_set_variable_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
    monkeypatch.setenv(name, "7")
    environment.set_defaults("10.0.0.1:6379")
    assert os.environ[name] == "7" and environment.ENV_DEFAULTS[name] != "7"


def test_the_configured_address_comes_before_the_variable_and_neither_means_a_private_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert environment.address_of(ClusterConfig()) is None
    assert environment.address_of(ClusterConfig(address="10.0.0.1:6379")) == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert environment.address_of(ClusterConfig()) == "10.0.0.2:6379"
    assert environment.address_of(ClusterConfig(address="10.0.0.1:6379")) == "10.0.0.1:6379"


@pytest.fixture
def new_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Give the environment of a shell that knows of no cluster; what is set in it ends with the test."""
    for name in ("RAY_ADDRESS", *environment.TOKEN_ENV, *environment.LOOPBACK_ENV):
        monkeypatch.setenv(name, "")  # so that the name is removed again, whoever sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return monkeypatch


@pytest.fixture
def checkout(new_shell: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the current folder."""
    (tmp_path / "checkout" / ".ray").mkdir(parents=True)
    new_shell.chdir(tmp_path / "checkout")
    return tmp_path / "checkout"


def test_auto_is_the_cluster_that_was_started_in_this_folder_and_no_other(checkout: Path) -> None:
    folder = session.new_folder("secret")
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379")
    auto = RunConfig(cluster=ClusterConfig(address="auto"))
    with pytest.raises(ClusterError, match=r"is auto, but no Ray cluster that was started in .*checkout runs; start"):
        environment.set_environment(auto)
    (checkout / ".ray" / "head.json").write_text(json.dumps({"folder": str(folder)}))
    assert environment.address_of(auto.cluster) == "127.0.0.1:6379"
    environment.set_environment(auto)
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(folder / "auth_token")
    assert all(os.environ[name] == value for name, value in environment.LOOPBACK_ENV.items())


def test_auto_is_refused_when_the_cluster_of_this_folder_has_ended(checkout: Path) -> None:
    folder = session.new_folder("secret")
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379")
    (folder / "owner.json").write_text(json.dumps({"machine": "", "pid": os.getpid(), "start_time": "another"}))
    (checkout / ".ray" / "head.json").write_text(json.dumps({"folder": str(folder)}))
    with pytest.raises(ClusterError, match=r"`\. \.ray/env`"):
        environment.address_of(ClusterConfig(address="auto"))


def test_local_is_a_private_cluster_wherever_it_is_said(new_shell: pytest.MonkeyPatch) -> None:
    new_shell.setenv("RAY_ADDRESS", "local")
    assert environment.address_of(ClusterConfig()) is None
    new_shell.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert environment.address_of(ClusterConfig(address="local")) is None


@pytest.mark.parametrize(
    ("address", "loopback", "token"),
    [(None, True, True), ("local", True, True), ("127.0.0.1:6379", True, False), ("10.0.0.1:6379", False, False)],
)
def test_only_a_cluster_of_this_machine_stays_on_loopback_and_only_a_private_one_gets_a_fresh_token(
    new_shell: pytest.MonkeyPatch, address: str | None, loopback: bool, token: bool
) -> None:
    environment.set_environment(RunConfig(cluster=ClusterConfig(address=address)))
    assert all((os.environ.get(k) == v) is loopback for k, v in environment.LOOPBACK_ENV.items())
    assert ("RAY_AUTH_TOKEN" in os.environ) is token


def test_the_token_of_a_cluster_of_this_machine_is_found_by_its_address(new_shell: pytest.MonkeyPatch) -> None:
    folder = session.new_folder("secret")
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379")
    environment.set_defaults("127.0.0.1:6379")
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(folder / "auth_token")


def test_a_token_that_the_user_gave_is_used_and_none_is_looked_for(new_shell: pytest.MonkeyPatch) -> None:
    new_shell.setenv("RAY_AUTH_MODE", "disabled")
    environment.set_defaults(None)
    environment.set_defaults("127.0.0.1:6379")
    assert not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()


def test_setting_it_does_not_import_ray() -> None:
    code = "import sys, l2l_ray.actors.environment; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
