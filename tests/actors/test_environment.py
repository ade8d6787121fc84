"""Defaults that are set before ray is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from l2l_ray.actors import environment
from l2l_ray.config import ClusterConfig, RunConfig


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


@pytest.mark.parametrize(
    ("address", "loopback", "token"),
    [(None, True, True), ("127.0.0.1:6379", True, False), ("10.0.0.1:6379", False, False)],
)
def test_only_a_cluster_of_this_machine_stays_on_loopback_and_only_a_private_one_gets_a_token(
    monkeypatch: pytest.MonkeyPatch, address: str | None, loopback: bool, token: bool
) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", *environment.LOOPBACK_ENV):
        monkeypatch.delenv(name, raising=False)
    environment.set_environment(RunConfig(cluster=ClusterConfig(address=address)))
    assert all((os.environ.get(k) == v) is loopback for k, v in environment.LOOPBACK_ENV.items())
    assert ("RAY_AUTH_TOKEN" in os.environ) is token


def test_setting_it_does_not_import_ray() -> None:
    code = "import sys, l2l_ray.actors.environment; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
