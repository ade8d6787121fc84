"""A whole run's config, and what contradicts itself and is refused.

Each part of the package is handed its own section, never the whole. What is refused here can only be a mistake; a field
that merely has no effect is named instead (`effects`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from l2l_ray.config.fields import EMBEDDED, Section
from l2l_ray.config.messages import explain
from l2l_ray.config.places import below, settled, settled_file, settled_model
from l2l_ray.config.prior_section import PriorConfig
from l2l_ray.config.sections import (
    AugmentConfig,
    ClusterConfig,
    DataConfig,
    LoopConfig,
    SegmenterConfig,
    SelectorConfig,
)
from l2l_ray.errors import ConfigError
from l2l_ray.selector.registry import spec_of
from l2l_ray.storage import StorePath, at_home, local_cache, place


class RunConfig(Section):
    """A whole run."""

    model_config = ConfigDict(hide_input_in_errors=True)  # as of `PriorConfig`

    name: str | None = Field(
        None,
        description="Folder of the run below run_root, up to 4 deep (group/mine), not below cache or data; "
        "null = DATASET-SELECTOR-sSEED",
    )
    run_root: str | None = Field(
        None,
        description="Folder of all runs and their cache, or a place in an object store (s3://bucket/runs); null = "
        "$L2L_HOME, else ~/l2l_runs",
    )
    resume: bool = Field(False, description="Continue an unfinished run from its last saved labels and training state")
    resume_if_begun: bool = Field(
        False,
        description="Continue the run where one of this name was begun, else start it: for a command that a cluster "
        "repeats after a failure",
    )
    compare: tuple[str, ...] = Field(
        (),
        description="Selectors to run beside selector.name, from the same burn-in, for the table of results; "
        "'fixed_threshold@0.8' brings its own threshold",
    )
    data: DataConfig = DataConfig()
    prior: PriorConfig = PriorConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    selector: SelectorConfig = SelectorConfig()
    loop: LoopConfig = LoopConfig()
    augment: AugmentConfig = AugmentConfig()
    cluster: ClusterConfig = ClusterConfig()

    @field_validator("name")
    @classmethod
    def _below_run_root(cls, name: str | None) -> str | None:
        return None if name is None else below(name)

    @model_validator(mode="after")
    def _methods_exist_once(self) -> Self:
        methods = [*self.compare, self.selector.name]
        for method in self.compare:
            selector_for(self.selector, method)
        different = {selector_for(self.selector, method).model_dump_json() for method in methods}
        if len(different) < len(methods):
            raise ValueError(
                f"compare and selector.name must name each selector once, got {methods}; leave the repeated one out"
            )
        return self

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        """Refuse settings that contradict each other: one of the two must be a mistake."""
        data, prior, strong = self.data, self.prior, self.augment.strong
        if data.root == EMBEDDED and not data.dataset.startswith("refshapes"):
            raise ValueError(
                f"data.dataset is {data.dataset!r}, but data.root is 'embedded', which draws RefShapes alone; set "
                f"data.root to the folder that holds {data.dataset}, or data.dataset to refshapes"
            )
        if data.root == EMBEDDED and data.split_by != "l2l":
            raise ValueError(
                f"data.split_by is {data.split_by!r}, but the embedded data is split by 'l2l' alone; leave it out, or "
                "set data.root to a folder with data of your own"
            )
        if prior.proposal == "sam" and prior.sam_model is None:
            raise ValueError(
                "prior.proposal is 'sam', but prior.sam_model is None; set it to a folder or hub id of SAM, SAM 2 "
                "or SAM 3, or prior.proposal to 'box'"
            )
        if strong.blur_min_sigma_frac > strong.blur_max_sigma_frac:
            raise ValueError(
                f"augment.strong.blur_min_sigma_frac is {strong.blur_min_sigma_frac:g}, more than blur_max_sigma_frac "
                f"{strong.blur_max_sigma_frac:g}; swap them"
            )
        return self

    @property
    def root(self) -> Path:
        """Absolute run root: explicit, else this process's $L2L_HOME, else ~/l2l_runs."""
        root = self.run_root or os.environ.get("L2L_HOME")
        return at_home(place(root) if root else Path.home() / "l2l_runs").absolute()

    def rooted(self) -> Self:
        """Return this config with every path absolute, so that every process it is handed to finds the same.

        Raises:
            ConfigError: One is relative, and nobody knows to what (`places.settled`).
        """
        data, prior, segmenter = self.data, self.prior, self.segmenter
        data_paths = {} if data.root == EMBEDDED else {"root": settled("data.root", data.root)}
        if data.split_file is not None:
            data_paths["split_file"] = settled_file("data.split_file", data.split_file)
        models = {"model": settled_model("prior.model", prior.model)}
        if prior.sam_model is not None:
            models["sam_model"] = settled_model("prior.sam_model", prior.sam_model)
        encoders = {name: settled_model(f"segmenter.{name}", getattr(segmenter, name)) for name in ("backbone", "text")}
        return self.model_copy(
            update={
                "run_root": settled("run_root", self.run_root or os.environ.get("L2L_HOME") or str(self.root)),
                "data": data.model_copy(update=data_paths),
                "prior": prior.model_copy(update=models),
                "segmenter": segmenter.model_copy(update=encoders),
            }
        )

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """Return this config with some fields changed together, checked as a whole.

        Args:
            values: Dotted path of a field -> its value; the fields exist.
        Raises:
            ConfigError: The values do not fit.
        """
        content = self.model_dump()
        for path, value in values.items():
            *sections, field = path.split(".")
            part = content
            for section in sections:
                part = part[section]
            part[field] = value
        try:
            return self.model_validate(content)
        except ValidationError as error:
            raise ConfigError(explain(error, type(self))) from None

    @property
    def run_name(self) -> str:
        """Folder of this run under `root`."""
        return self.name or f"{self.data.dataset}-{self.selector.name}-s{self.loop.seed}"

    @property
    def run_dir(self) -> Path:
        """Absolute folder of this run."""
        return self.root / self.run_name

    @property
    def cache_dir(self) -> Path:
        """Shared between runs: embedded data, prior store, burn-ins."""
        return self.root / "cache"

    @property
    def scratch_dir(self) -> Path:
        """As `cache_dir`, for what only a disk of this machine can hold: locks, columns mapped into memory."""
        return local_cache() if isinstance(self.root, StorePath) else self.cache_dir


def selector_for(section: SelectorConfig, method: str) -> SelectorConfig:
    """Return the selector section of one method of a job: a selector's name, or `fixed_threshold@0.8`.

    Raises:
        ConfigError: No selector has this name, or its value is none that the field takes.
    """
    try:
        spec, value = spec_of(method), method.partition("@")[2]
        change: dict[str, Any] = {"name": spec.name} | ({spec.setting: value} if spec.setting and value else {})
        return SelectorConfig.model_validate(section.model_dump() | change)
    except ValidationError as error:
        raise ConfigError(f"method {method!r} of `compare`: {explain(error, SelectorConfig)}") from None
    except ConfigError as error:
        # Of its own kind: who lists runs tells a selector that is not found from a typing error.
        raise type(error)(f"method {method!r} of `compare`: {error}") from None
