"""Writes docs/config.md anew: every field of the config with default, range and meaning, and what presets change.

python docs/config_page.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from l2l_ray.config import PRESETS, RunConfig, Section, config_fields, field_value, range_text  # noqa: E402

INTRO = """# Every setting

Written by `docs/config_page.py` from the sections in `l2l_ray/config`; `make format` writes it again.

A field is set on the command line (`--loop.rounds 5`; switches also as `--no-loop.autocast`) or in a YAML file
(`--config run.yaml`), over a preset (`--preset smoke`): preset < file < command line. `l2l config` with the same words
prints the whole config that they mean, and every run saves its own as `config.yaml`, which starts the same run again.

An unknown field, a value out of range and settings that contradict each other are errors. A field that is set and has
no effect in its run is named at the start: `note: prior.temperature has no effect: prior.num_samples is 1, ...`.

In brackets: where a default comes from, "ours" where we chose it. In the ranges x is the value.
"""


def page() -> str:
    """Return the whole page."""
    parts = [INTRO, "## The run\n", table(RunConfig, "")]
    for name, info in RunConfig.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            parts += [f"\n## {name}\n", doc(info.annotation), table(info.annotation, f"{name}.")]
    return "\n".join([*parts, presets()])


def doc(section: type[Section]) -> str:
    """Return a section's own words."""
    return (section.__doc__ or "").replace("\n    ", "\n").strip() + "\n"


def table(section: type[Section], prefix: str) -> str:
    """Return a table of a section's fields, with a part for each section inside it."""
    own = {prefix + name for name in section.model_fields}
    rows = ["| field | default | range | what |", "|---|---|---|---|"]
    nested: list[str] = []
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            if prefix:
                nested += [f"\n### {prefix}{name}\n", doc(info.annotation), table(info.annotation, f"{prefix}{name}.")]
    for field in config_fields(section, prefix):
        if field.path in own:
            cells = [f"`{field.path}`", shown(field.info.default), range_text(field.info), field.info.description]
            rows.append(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*rows, *nested])


def presets() -> str:
    """Return what each preset sets differently from the defaults, which are those of `embedded`."""
    names = [name for name in PRESETS if PRESETS[name]() != RunConfig()]
    made = {name: PRESETS[name]() for name in names}
    rows = [f"| field | default | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for field in config_fields(RunConfig):
        default = field_value(RunConfig(), field.path)
        values = [field_value(made[name], field.path) for name in names]
        if any(value != default for value in values):
            cells = [shown(value) if value != default else "" for value in values]
            rows.append(f"| `{field.path}` | {shown(default)} | {' | '.join(cells)} |")
    says = [
        f"- `{name}`: {(PRESETS[name].__doc__ or '').partition(chr(10))[0].removeprefix('Return ')}" for name in names
    ]
    defaults = (
        "- `embedded`: the defaults, used where no preset is named. Runs on two cores, with data and models of ours."
    )
    return "\n".join(["\n## Presets\n", defaults, *says, "", *rows]) + "\n"


def shown(value: Any) -> str:
    """Return a value as it is written in YAML."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    (ROOT / "docs" / "config.md").write_text(page())
