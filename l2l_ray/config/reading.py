"""From words and files to a config, and back: the command line, YAML, and what is said about them.

The command line and YAML files come from the same models (`--config run.yaml --selector.reward.unlabeled 0.2`); unknown
fields are errors. The exact config is saved with every run, and a saved config starts the same run again.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from l2l_ray.config.advice import toy_models
from l2l_ray.config.effects import Command, notices
from l2l_ray.config.fields import EMBEDDED, config_fields
from l2l_ray.config.help import short_help
from l2l_ray.config.messages import SEE_HELP, explain, meant, selector_not_found
from l2l_ray.config.places import is_submitted
from l2l_ray.config.plain_yaml import parse_yaml
from l2l_ray.config.presets import PRESETS, RENAMED
from l2l_ray.config.run import RunConfig
from l2l_ray.errors import ConfigError
from l2l_ray.storage import at_home, place

logger = logging.getLogger(__name__)

_PROGRAMS: dict[Command | None, str] = {
    "run": "l2l run",
    "job": "python jobs/selfevolve.py",
    "sweep": "python jobs/sweep.py SPACE",
    None: "l2l config",
}


def load_config(argv: Sequence[str] = (), command: Command | None = None) -> RunConfig:
    """Build the config from command-line words; warn of fields without effect and of models not made for the data.

    `--help` and `--help-all` print and end the process.

    Order, later wins: preset (`--preset smoke`, default embedded) < file (`--config run.yaml`) < fields
    (`--selector.reward.unlabeled 0.2`, `--resume`).

    Args:
        argv: Words after the program's name.
        command: Who asks; it decides which fields have an effect.
    Returns:
        A validated `RunConfig`.
    Raises:
        ConfigError: Unknown field, wrong value, unreadable file; the message names the field and what it accepts.
    """
    program = _PROGRAMS[command]
    if any(word in ("-h", "--help") for word in argv):
        sys.stdout.write(short_help(program))
        raise SystemExit(0)
    preset, file, rest = _take_options(list(argv))
    base = PRESETS[preset]()
    content = {} if file is None else _read_yaml(at_home(place(file)))
    try:
        given = _given_by(rest, program)
        config = RunConfig.model_validate(_merge(_merge(base.model_dump(), content), given))
    except ValidationError as error:
        raise ConfigError(explain(error, RunConfig)) from None
    # A saved config names every field: there, too, `labeled_frac: null` leaves the share to what the data are.
    if _names(given, "benchmark_frac") or (_names(content, "benchmark_frac") and not _names(content, "labeled_frac")):
        config = _with_share(config, base)
    advice = toy_models(config) if command is not None else None
    for notice in (*notices(config, base, command), *([advice] if advice else [])):
        logger.warning("note: %s", notice)
    return config


def own_words(
    parser: ArgumentParser, words: Sequence[str], overlap: Collection[str] = ()
) -> tuple[Namespace, list[str]]:
    """Parse the words that a command's own parser knows, in any order; return also those that set fields of a run.

    argparse takes the value of an option that it does not know for a word like a folder's name, depending on the order
    and on the version of Python. So fields are taken out with their values before it sees the rest.

    Args:
        parser: Of the command.
        words: After the command's name.
        overlap: Options of the command that are called like a field, such as `--name`.
    Raises:
        ConfigError: A word is neither.
        SystemExit: A word does not fit the parser, or it was asked for help.
    """
    switches = {"--help-all"}
    takes_value = {"--preset", "--config", *(f"--{section}" for section in _sections())}
    for field in config_fields(RunConfig):
        if field.info.annotation is bool:
            switches |= {f"--{field.path}", f"--no-{field.path}"}
        else:
            takes_value.add(f"--{field.path}")
    parts, fields, rest = [list[str]()], list[str](), list(words)
    while rest:
        word = rest.pop(0)
        name, sep, _ = word.partition("=")
        if name in overlap or name not in switches | takes_value:
            parts[-1].append(word)
            continue
        parts.append([])  # a field ends the values of an option such as `--seeds 0 1`
        fields.append(word)
        if not sep and rest and (name in takes_value or rest[0].lower() in ("true", "false")):
            fields.append(rest.pop(0))
    parts.sort(key=lambda part: bool(part) and part[0].startswith("-"))  # words by themselves first: they stay so
    given, unknown = parser.parse_known_intermixed_args([word for part in parts for word in part])
    if unknown:
        raise ConfigError(f"command line: unrecognized arguments: {' '.join(unknown)}; {_meant_fields(unknown)}")
    return given, fields


def read_config(path: Path) -> RunConfig:
    """Read the `config.yaml` that a run saved.

    Raises:
        ConfigError: The file is missing, not YAML, or does not fit this version's fields.
    """
    if not path.exists():
        model = (
            ", but a saved model, which `Predictor.from_pretrained` loads"
            if path.with_name("config.json").exists()
            else ""
        )
        raise ConfigError(
            f"config file {path} cannot be read: there is none{model}; give the folder that a run printed"
        )
    try:
        return RunConfig.model_validate(_read_yaml(path))
    except ValidationError as error:
        if missing := selector_not_found(error):
            raise ConfigError(f"{path}: {missing}") from None
        raise ConfigError(
            f"{path} is no config of this version of the code; what another version made is read with that version "
            f"(env.json beside it names it), or start another run: {explain(error, RunConfig)}"
        ) from None


def _names(content: dict[str, Any], field: str) -> bool:
    """Whether settings name a field of the data."""
    return isinstance(content.get("data"), dict) and field in content["data"]


def _with_share(config: RunConfig, base: RunConfig) -> RunConfig:
    """Return a config in which a `benchmark_frac` that somebody set is obeyed, whether the data are a benchmark or not.

    It is then `labeled_frac`, which says the same of a benchmark. What else says how many are labeled stays.
    """
    data = config.data
    if data.root == EMBEDDED or data.labeled_frac is not None or data.split_file is not None:
        return config
    logger.warning(
        "note: data.benchmark_frac is set, so data.labeled_frac is %g, whatever data these are", data.benchmark_frac
    )
    changes = {"labeled_frac": data.benchmark_frac, "benchmark_frac": base.data.benchmark_frac}
    return config.model_copy(update={"data": data.model_copy(update=changes)})


def _given_by(words: list[str], program: str) -> dict[str, Any]:
    """Return what `--section.field value` words set, by section."""
    from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
    from pydantic_settings.exceptions import SettingsError

    class Cli(RunConfig, BaseSettings):
        """Later wins: --preset NAME (embedded has the defaults below); --config FILE.yaml; the options below."""

        model_config = SettingsConfigDict(
            extra="forbid", cli_implicit_flags=True, cli_exit_on_error=False, cli_prog_name=program
        )

    try:
        words = ["--help" if word == "--help-all" else word for word in words]
        return CliSettingsSource[Any](Cli, cli_parse_args=_flags(words))()
    except SettingsError as error:
        what = str(error).removeprefix("error parsing CLI: ")
        raise ConfigError(f"command line: {what}; {_meant_fields(words)}") from None


def _sections() -> set[str]:
    """Return the paths of all sections: one may be given as JSON."""
    parts = (field.path.split(".")[:-1] for field in config_fields(RunConfig))
    return {".".join(names[:depth]) for names in parts for depth in range(1, len(names) + 1)}


def _meant_fields(words: Sequence[str]) -> str:
    """Return which fields are meant by options that are none, and where all are listed."""
    known = ["preset", "config", *_sections(), *(field.path for field in config_fields(RunConfig))]
    options = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    return meant([option for option in options if option.removeprefix("no-") not in known], known) + SEE_HELP


def _flags(words: list[str]) -> list[str]:
    """Turn `--loop.autocast false` into the parser's own `--no-loop.autocast`, and `true` into the bare option.

    A negative number is joined to its option: the parser would take `-1e-2` for another one.

    Raises:
        ConfigError: Such an option is followed by another word, or JSON has a key twice in one mapping.
    """
    switches = {f"--{field.path}" for field in config_fields(RunConfig) if field.info.annotation is bool}
    flags: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, sep, value = word.partition("=")
        if option not in switches:
            if option.startswith("--") and not sep and rest and re.fullmatch(r"-[\d.].*", rest[0]):
                word = f"{option}={rest.pop(0)}"
            _require_keys_once(word)
            flags.append(word)
            continue
        if not sep:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        if value.lower() not in ("true", "false"):
            raise ConfigError(
                f"{option[2:]} must be true or false, got {value!r}; or write {option} or --no-{option[2:]}"
            )
        flags.append(option if value.lower() == "true" else f"--no-{option[2:]}")
    return flags


def _require_keys_once(word: str) -> None:
    """Refuse JSON in which one key would replace another; what is no JSON is left to the parser."""

    def mapping(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"command line: {twice!r} stands twice in {word}; write it once")

    text = word.partition("=")[2] if word.startswith("--") else word
    with suppress(json.JSONDecodeError, RecursionError):
        json.loads(text, object_pairs_hook=mapping)


def _take_options(words: list[str]) -> tuple[str, str | None, list[str]]:
    """Split off `--preset NAME` and `--config FILE`."""
    taken: dict[str, str | None] = {"--preset": "embedded", "--config": None}
    rest: list[str] = []
    while words:
        option, sep, value = words.pop(0).partition("=")
        if option not in taken:
            rest.append(option + sep + value)
            continue
        if not sep and not words:
            raise ConfigError(f"{option} needs a value, got nothing")
        taken[option] = value if sep else words.pop(0)
    if (preset := str(taken["--preset"])) not in PRESETS:
        raise ConfigError(
            f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}; {_meant_preset(preset)}".strip("; ")
        )
    return preset, taken["--config"], rest


def _meant_preset(name: str) -> str:
    return f"it is called {RENAMED[name]!r} now" if name in RENAMED else meant([name], PRESETS)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        away = f", from {Path.cwd()}: `ray job submit --working-dir .` sends files along" if is_submitted() else ""
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}; check the path{away}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"config file {path} cannot be read: {where}{error.problem}; correct its YAML") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise ConfigError(
            f"config file {path} cannot be read: {what}; give a YAML file as `l2l config` prints"
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path} must hold a mapping of sections, got {type(content).__name__}")
    return content


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Lay `top` over `base`, section by section; resource maps are replaced whole."""
    merged = dict(base)
    for key, value in top.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict) and not key.endswith("_resources")
        merged[key] = _merge(base[key], value) if nested else value
    return merged


def config_yaml(config: RunConfig) -> str:
    """Return every field of `config` as YAML."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def save_config(config: RunConfig, path: Path) -> None:
    """Write `config` as YAML that `read_config` reads back to an equal object."""
    path.write_text(config_yaml(config))
