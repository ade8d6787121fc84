"""How signatures are checked while tests run: an int may stand for a float, as for type checkers.

jaxtyping reads the arguments of each call three times, to tell what a shape is bound to. The functions of modules that
name no shape are checked by beartype alone: the same check, at a fraction of the time.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException

Decorator = Callable[[Any], Any]
check: Decorator = beartype(conf=BeartypeConf(is_pep484_tower=True))
_with_shapes: Callable[..., Decorator] = jaxtyping.jaxtyped


@cache
def _names_shapes(module: str) -> bool:
    return "from jaxtyping import" in inspect.getsource(sys.modules[module])


def jaxtyped(*, typechecker: Decorator) -> Decorator:
    """Return the decorator that jaxtyping's import hook adds to each function and class."""

    def decorated(found: Any) -> Any:
        if inspect.isfunction(found) and not _names_shapes(found.__module__):
            with suppress(BeartypeDecorHintException):  # such as `pd.Series[Any]`, which type checkers alone can read
                return check(found)
        return _with_shapes(typechecker=typechecker)(found)

    return decorated


jaxtyping.jaxtyped = jaxtyped  # the hook looks it up there
