"""Devices: what torch does not know, or has not here, is named with the remedy."""

from __future__ import annotations

import pytest
import torch

from l2l_ray.device import pick_device
from l2l_ray.errors import ConfigError


def test_auto_takes_what_is_there() -> None:
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["foo", "cuda:99", ""])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^device '{name}' cannot be used here: .*; give 'auto' \(prior\.device"):
        pick_device(name)
