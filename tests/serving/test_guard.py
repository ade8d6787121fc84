"""What a guard refuses to be made of; what it refuses of requests is in `test_api` and `tests/review/test_app`."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette

from l2l_ray.serving.guard import Guard


@pytest.mark.parametrize("address", ["127.0.0.1:8765", "", "http://"])
def test_an_address_without_a_host_would_refuse_everybody_and_is_refused_itself(address: str) -> None:
    with pytest.raises(ValueError, match=r"an address is like http://127\.0\.0\.1:8001"):
        Guard(Starlette(), "0" * 64, (), ("http://127.0.0.1:8001", address))
