"""What a wrong setting is told: the field, what it got, what it accepts, what it is for, and the name meant instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from l2l_ray.config.fields import Section, config_fields
from l2l_ray.selector.registry import SelectorNotFound

SEE_HELP = "`--help-all` and docs/config.md list every field"


def explain(error: ValidationError, model: type[Section]) -> str:
    """Return one sentence per mistake.

    Args:
        error: What checking `model` raised.
        model: The section or whole config that was checked.
    """
    known = {field.path: field.info.description for field in config_fields(model)}
    return "; ".join(_sentence(item, known) for item in error.errors())


def selector_not_found(error: ValidationError) -> str:
    """Return which module of somebody's own selector cannot be imported and what to do, "" where that is not it."""
    causes = (item.get("ctx", {}).get("error") for item in error.errors())
    return next((str(cause) for cause in causes if isinstance(cause, SelectorNotFound)), "")


def meant(names: Iterable[str], known: Iterable[str]) -> str:
    """Return "did you mean ...? " with the field closest to each unknown name, or "" where none is close."""
    known = list(known)
    close = [match for name in names for match in get_close_matches(name, known, n=1)]
    return f"did you mean {', '.join(close)}? " if close else ""


def _sentence(item: ErrorDetails, known: Mapping[str, str | None]) -> str:
    field = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown field {field}; {meant([field], known)}{SEE_HELP}"
    if item["type"] == "value_error":  # a check of our own: its message says it all, of several fields also which
        return (f"{field}: " if field else "") + item["msg"].removeprefix("Value error, ")
    if item["type"].startswith("model_") and item["input"] is None:
        return f"{field}: nothing stands below it; leave {field} out too, for its defaults"
    parts = field.split(".")
    what = next((w for end in range(len(parts), 0, -1) if (w := known.get(".".join(parts[:end])))), None)
    return f"{field or 'config'}: {item['msg']}, got {item['input']!r}" + (f" ({what})" if what else "")
