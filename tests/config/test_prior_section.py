"""Addresses of servers that may not be are refused without showing a secret."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from l2l_ray.config import PriorConfig, RunConfig, load_config
from l2l_ray.errors import ConfigError


@pytest.mark.parametrize(
    "url",
    ["http://me:hunter2@127.0.0.1:9/v1", "https://hunter2@host/v1", "me:hunter2@host", "http://host/v1?k=hunter2"],
)
def test_an_address_with_a_secret_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^prior\.url: must be an .*address without") as told:
        load_config(["--prior.url", url])
    with pytest.raises(ValidationError, match="address without") as alone:
        PriorConfig(url=url)
    with pytest.raises(ValidationError, match="address without") as inside:
        RunConfig.model_validate({"prior": {"url": url}})
    assert all("hunter2" not in str(error.value) for error in (told, alone, inside))


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000/v1", "ftp://host/v1", "http://", "http://host:x/v1", "http://h/v 1", ""]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^prior\.url: must be an http:// or https:// address .*; correct it$"):
        load_config([f"--prior.url={url}"])


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "https://[::1]:80/v1/", "http://models.svc/team@x/v1"])
def test_addresses_are_taken_as_they_are(url: str) -> None:
    assert PriorConfig(url=url).url == url
