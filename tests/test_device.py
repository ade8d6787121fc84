"""Devices: what torch does not know, or has not here, is named with the remedy."""

from __future__ import annotations

import pytest
import torch

from l2l_ray.config import PriorConfig
from l2l_ray.device import named_device, pick_device
from l2l_ray.errors import ConfigError
from l2l_ray.prior.loading import identify_prior


def test_auto_takes_what_is_there() -> None:
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


def test_a_device_of_another_machine_may_be_named() -> None:
    assert named_device("cuda:99") == torch.device("cuda:99")
    config = PriorConfig(device="cuda:99", dtype="bfloat16")
    assert identify_prior(config) == identify_prior(config.model_copy(update={"device": "cpu"}))


@pytest.mark.parametrize("name", ["foo", "cuda:99", ""])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^device '{name}' cannot be used here: .*; give 'auto' \(prior\.device"):
        pick_device(name)
