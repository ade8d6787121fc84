"""One config: frozen sections, one per part of the package, joined in `RunConfig`; presets are functions.

    fields     what a section is; walking the fields
    prior_section  which language model is asked, and how
    sections   the other sections, each field with its range, unit and source
    run        `RunConfig`, and which settings contradict each other
    presets    whole configs by name, and what they need
    advice     what a person should know although nothing is wrong
    effects    which fields have no effect in a configuration
    reading    command line and YAML, in and out
    differences  in which fields two configs differ
    help       what `--help` says first
    messages   what a wrong setting is told

Importing it takes no heavy library.
"""

from l2l_ray.config.advice import toy_answers, toy_models
from l2l_ray.config.effects import Command, Idle, idle_fields, idle_in_prior, notices
from l2l_ray.config.fields import (
    EMBEDDED,
    NO_RESULT,
    PLACES,
    ConfigField,
    Section,
    config_fields,
    dump_without,
    field_value,
    range_text,
)
from l2l_ray.config.plain_yaml import parse_yaml
from l2l_ray.config.presets import NEEDS, PRESETS, Needs, lavt_like_config, smoke_config
from l2l_ray.config.prior_section import PriorConfig
from l2l_ray.config.reading import config_yaml, load_config, read_config, save_config
from l2l_ray.config.run import RunConfig, selector_for
from l2l_ray.config.sections import (
    AugmentConfig,
    ClusterConfig,
    DataConfig,
    LoopConfig,
    RewardConfig,
    SegmenterConfig,
    SelectorConfig,
    StrongConfig,
)

__all__ = [
    "EMBEDDED",
    "NEEDS",
    "NO_RESULT",
    "PLACES",
    "PRESETS",
    "AugmentConfig",
    "ClusterConfig",
    "Command",
    "ConfigField",
    "DataConfig",
    "Idle",
    "LoopConfig",
    "Needs",
    "PriorConfig",
    "RewardConfig",
    "RunConfig",
    "Section",
    "SegmenterConfig",
    "SelectorConfig",
    "StrongConfig",
    "config_fields",
    "config_yaml",
    "dump_without",
    "field_value",
    "lavt_like_config",
    "idle_fields",
    "idle_in_prior",
    "load_config",
    "notices",
    "parse_yaml",
    "range_text",
    "read_config",
    "save_config",
    "selector_for",
    "smoke_config",
    "toy_answers",
    "toy_models",
]
