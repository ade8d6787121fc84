"""One config: frozen sections, one per part of the package, joined in `RunConfig`; presets are functions.

    fields     what a section is; walking the fields
    sections   the sections, each field with its range, unit and source
    run        `RunConfig`, presets, and which settings contradict each other
    effects    which fields have no effect in a configuration
    reading    command line and YAML, in and out
    messages   what a wrong setting is told

Importing it takes no heavy library.
"""

from l2l_ray.config.effects import Command, Idle, idle_fields, idle_in_prior, notices
from l2l_ray.config.fields import ConfigField, Section, config_fields, field_value, range_text
from l2l_ray.config.reading import config_yaml, load_config, read_config, save_config
from l2l_ray.config.run import PRESETS, RunConfig, full_config, selector_for, smoke_config
from l2l_ray.config.sections import (
    EMBEDDED,
    AugmentConfig,
    ClusterConfig,
    DataConfig,
    LoopConfig,
    PriorConfig,
    RewardConfig,
    SegmenterConfig,
    SelectorConfig,
    StrongConfig,
)

__all__ = [
    "EMBEDDED",
    "PRESETS",
    "AugmentConfig",
    "ClusterConfig",
    "Command",
    "ConfigField",
    "DataConfig",
    "Idle",
    "LoopConfig",
    "PriorConfig",
    "RewardConfig",
    "RunConfig",
    "Section",
    "SegmenterConfig",
    "SelectorConfig",
    "StrongConfig",
    "config_fields",
    "config_yaml",
    "field_value",
    "full_config",
    "idle_fields",
    "idle_in_prior",
    "load_config",
    "notices",
    "range_text",
    "read_config",
    "save_config",
    "selector_for",
    "smoke_config",
]
