"""What a section is, and how the fields of a config are found, read and described one by one.

Documents, checks and messages walk the fields with `config_fields`, so that none of them keeps a list of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo

EMBEDDED = "embedded"  # a data set or checkpoint that ships with the package

# Fields and sections that say which run it is, and where it lies.
PLACES = frozenset({"name", "run_root", "resume", "resume_if_begun"})
# Those and what says on which machines, how fast and in how much memory it works: results differ by rounding at most.
NO_RESULT = PLACES | {
    *("cluster", "data.image_cache_mb", "loop.micro_batch", "loop.eval_batch", "loop.compile"),
    *("prior.batch_size", "prior.device", "prior.max_wait_s", "prior.timeout_s", "prior.url"),
    "segmenter.checkpoint_activations",
}


class Section(BaseModel):
    """Base of all sections: frozen; unknown fields, infinite numbers and text that UTF-8 cannot write are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _can_be_written(cls, content: Any) -> Any:
        for name, value in content.items() if isinstance(content, Mapping) else ():
            for text in value if isinstance(value, list | tuple) else (value,):
                if isinstance(text, str) and any("\ud800" <= sign <= "\udfff" for sign in text):
                    raise ValueError(f"{name} must be text in UTF-8, got {text!r}; rename what is called so")
        return content


@dataclass(frozen=True)
class ConfigField:
    """One field of a config, found by `config_fields`.

    Example: `ConfigField("selector.reward.unlabeled", info)`; `info` is pydantic's: default, bounds, description.
    """

    path: str
    info: FieldInfo


def config_fields(model: type[Section], prefix: str = "") -> Iterator[ConfigField]:
    """Yield every field of a section and of the sections in it, in the order in which they are written."""
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from config_fields(info.annotation, f"{prefix}{name}.")
        else:
            yield ConfigField(prefix + name, info)


def field_value(section: Section, path: str) -> Any:
    """Return the value of the field with a dotted path."""
    value: Any = section
    for name in path.split("."):
        value = getattr(value, name)
    return value


def dump_without(section: Section, paths: Collection[str]) -> dict[str, Any]:
    """Return a config as `model_dump` gives it in JSON mode, without the fields and sections of these paths."""
    content: dict[str, Any] = section.model_dump(mode="json")
    for path in paths:
        *sections, field = path.split(".")
        place = content
        for name in sections:
            place = place[name]
        del place[field]
    return content


def range_text(info: FieldInfo) -> str:
    """Return which values a field takes, for people: `0 <= x < 1`, `box, polygon, sam`, `true, false`; else ""."""
    if get_origin(info.annotation) is Literal:
        return ", ".join(get_args(info.annotation))
    if info.annotation is bool:
        return "true, false"
    bounds = {name: getattr(b, name) for b in info.metadata for name in ("ge", "gt", "le", "lt") if hasattr(b, name)}
    low = next((f"{bounds[name]:g} {sign} " for name, sign in (("ge", "<="), ("gt", "<")) if name in bounds), "")
    high = next((f" {sign} {bounds[name]:g}" for name, sign in (("le", "<="), ("lt", "<")) if name in bounds), "")
    return f"{low}x{high}" if low or high else ""
