"""A selector that takes its process with it, as a lack of memory would; used by the tests of whole sweeps."""

from __future__ import annotations

import os
from typing import Any

from l2l_ray.selector.registry import SelectorSpec, register


def _dies(*_: Any) -> Any:
    os._exit(9)


register(SelectorSpec("tests.dying_selector:dies", "dies", _dies))
