"""Fields that change nothing in this configuration: named at the start of a run, so that nobody tunes a loose knob.

Here is the one place that knows them. A rule is written down from the code that reads the field; a field with a bug
that hides its effect is not found here. Settings that contradict each other are refused elsewhere (`run`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from l2l_ray.config.fields import EMBEDDED, config_fields, field_value
from l2l_ray.config.prior_section import PriorConfig
from l2l_ray.config.run import RunConfig
from l2l_ray.config.sections import ClusterConfig, SelectorConfig
from l2l_ray.selector.registry import makes_labels, selectors, spec_of, stores_labels

Command = Literal["run", "job", "sweep"]  # `l2l run`, jobs/selfevolve.py, jobs/sweep.py

# What steers updates, and so does nothing where there are none.
_OF_UPDATES = (
    *("lr", "update_batch", "group_size"),
    *("reward.unlabeled", "reward.wrong_cost"),
)


@dataclass(frozen=True)
class Idle:
    """Fields without effect, and why.

    Example: `Idle(("prior.temperature",), "prior.num_samples is 1")`
    """

    fields: tuple[str, ...]
    reason: str
    on: str = ""  # what they have no effect on, where they have some on something else

    def sentence(self) -> str:
        """Return `a, b have no effect: reason`."""
        on = f" on {self.on}" if self.on else ""
        return f"{', '.join(self.fields)} {'has' if len(self.fields) == 1 else 'have'} no effect{on}: {self.reason}"


def notices(config: RunConfig, preset: RunConfig, command: Command | None = None) -> list[str]:
    """Return a sentence about every field that differs from the preset's and has no effect in this configuration.

    Args:
        config: What will run.
        preset: What it was made from; its own values are nobody's choice and are not named.
        command: Who runs it; None leaves out what depends on that.
    """
    changed = {f.path for f in config_fields(RunConfig) if field_value(config, f.path) != field_value(preset, f.path)}
    named: set[str] = set()
    together: dict[tuple[str, str], tuple[str, ...]] = {}
    for idle in idle_fields(config, command):
        fields = tuple(name for name in idle.fields if name in changed - named)
        named |= set(fields)
        if fields:
            together[idle.reason, idle.on] = together.get((idle.reason, idle.on), ()) + fields
    return [Idle(fields, reason, on).sentence() for (reason, on), fields in together.items()]


def idle_fields(config: RunConfig, command: Command | None = None) -> Iterator[Idle]:
    """Yield what has no effect; a field comes once for every reason."""
    yield from _of_command(config, command)
    yield from _of_data(config)
    yield from idle_in_prior(config.prior)
    yield from _of_segmenter(config)
    yield from _of_selector(config)
    yield from _of_loop(config)
    yield from _of_augment(config)


def _of_command(config: RunConfig, command: Command | None) -> Iterator[Idle]:
    cluster = tuple(f"cluster.{field.path}" for field in config_fields(ClusterConfig))
    if command == "run":
        yield Idle(cluster, "`l2l run` works in one process; jobs/selfevolve.py reads the cluster section")
        yield Idle(("prior.max_wait_s",), "`l2l run` fills every batch; only prior actors on Ray wait")
    if command == "sweep":
        yield Idle(("name",), "a sweep names its folder by --sweep-name and its runs by their settings")
        yield Idle(("loop.seed", "data.split_seed"), "the seeds of a sweep are given by --seeds")
        yield Idle(("compare",), "a trial of a sweep is one selector; sweep selector.name instead")
        names = ("threads_per_labeler", "max_train_restarts", "progress_every_s")
        yield Idle(tuple(f"cluster.{name}" for name in names), "a trial of a sweep is one process")


def _of_data(config: RunConfig) -> Iterator[Idle]:
    data = config.data
    if data.root != EMBEDDED:
        names = ("data.num_train_refs", "data.num_eval_refs", "data.data_seed")
        yield Idle(names, "they shape the embedded data, and data.root names other data")
    else:
        yield Idle(("data.val_from_labeled",), "the embedded data has a val split")
    if data.split_file is not None or data.labeled_frac is not None:
        says = "data.labeled_frac" if data.split_file is None else "data.split_file"
        yield Idle(("data.benchmark_frac",), f"{says} says which images are labeled")
    if data.split_file is not None:
        holds_out = data.root != EMBEDDED and data.val_from_labeled > 0
        on = "which images are labeled" if holds_out or _learns(config) else ""  # it still draws these, and the folds
        yield Idle(("data.split_seed",), "data.split_file says which images are labeled", on)


def idle_in_prior(prior: PriorConfig) -> Iterator[Idle]:
    """Yield what has no effect on the MLLM's answers or on what becomes of them."""
    if prior.model != EMBEDDED:
        yield Idle(("prior.image_size",), "only the embedded model is shown a square; others resize images themselves")
    else:
        yield Idle(("prior.min_image_tokens",), "the embedded model is shown a square of prior.image_size")
    if prior.url is None:
        yield Idle(("prior.timeout_s",), "prior.url is not set, so no server is asked")
    if prior.num_samples == 1:
        yield Idle(("prior.temperature",), "prior.num_samples is 1, so no answer is drawn")
    if prior.proposal != "sam":
        yield Idle(("prior.sam_model",), f"prior.proposal is {prior.proposal!r}; set it to 'sam'")
    else:
        yield Idle(("prior.box_softness",), "prior.proposal is 'sam', so boxes are not drawn")


def _of_segmenter(config: RunConfig) -> Iterator[Idle]:
    if not config.segmenter.guidance:
        names = ("segmenter.prior_dropout", "segmenter.prior_dropout_ramp_steps")
        yield Idle(names, "segmenter.guidance is off, so the segmenter never sees a prior")
    if config.segmenter.prior_dropout == 0:
        yield Idle(("segmenter.prior_dropout_ramp_steps",), "segmenter.prior_dropout is 0")
    if not config.segmenter.train_text:
        yield Idle(("loop.text_lr_scale",), "segmenter.train_text is off")
        if not config.segmenter.train_backbone:
            reason = "segmenter.train_backbone and train_text are off, so no encoder learns"
            yield Idle(("segmenter.lora_rank",), reason)
    if not config.segmenter.train_backbone:
        on = "the image encoder's own weights"  # levels that are added to a plain ViT learn nevertheless
        yield Idle(("loop.backbone_lr_scale",), "segmenter.train_backbone is off", on)


def _of_selector(config: RunConfig) -> Iterator[Idle]:
    section, methods = config.selector, _methods(config)
    read = set().union(*(_reads(method) for method in methods))
    for field in config_fields(SelectorConfig):
        if field.path in read or field.path == "name":
            continue
        readers = ", ".join(spec.name for spec in selectors() if spec.reads is None or field.path in spec.reads)
        reason = f"none of this run's selectors ({', '.join(methods)}) reads it; {readers} would"
        yield Idle((f"selector.{field.path}",), reason)
    if section.warmup_updates == section.round_updates == 0:
        fields = tuple(f"selector.{name}" for name in _OF_UPDATES)
        yield Idle(fields, "selector.warmup_updates and round_updates are 0, so no selector learns")
    if not section.cells:
        yield Idle(("selector.reward.wrong_cost",), "selector.cells is off, so no pixel is decided by itself")
    if section.max_unlabeled == 0:
        yield Idle(("selector.reward.unlabeled",), "selector.max_unlabeled is 0, so updates see no unlabeled image")


def _of_loop(config: RunConfig) -> Iterator[Idle]:
    if not _learns(config):
        yield Idle(("loop.fold_steps",), f"none of this run's selectors ({', '.join(_methods(config))}) learns")
    names = ("loop.unlabeled_batch", "loop.unlabeled_weight", "loop.shard_size", "loop.lag")
    if config.data.labeled_frac == 1:
        more = ("loop.expressions_per_ref", "selector.max_unlabeled", "selector.reward.unlabeled")
        yield Idle((*names, *more), "data.labeled_frac is 1, so nothing is left to be labeled")
    if not any(makes_labels(method) for method in _methods(config)):
        yield Idle(names, "supervised training has no pseudo-labels")
        yield Idle(("loop.expressions_per_ref",), "supervised training has no pseudo-labels", "training")
    elif not any(stores_labels(method) for method in _methods(config)):
        yield Idle(("loop.shard_size", "loop.lag"), "every pseudo-label of this run is made at the step that uses it")
    if config.loop.rounds == 1:
        yield Idle(("loop.lag",), "loop.rounds is 1, and its labels come from version 0 at any lag")


def _of_augment(config: RunConfig) -> Iterator[Idle]:
    augment = config.augment
    if augment.crop_prob == 0:
        yield Idle(("augment.crop_min_side_frac",), "augment.crop_prob is 0")
    if augment.strong.jitter_prob == 0:
        of_color = ("brightness", "contrast", "saturation", "hue_turns")
        yield Idle(tuple(f"augment.strong.{name}" for name in of_color), "augment.strong.jitter_prob is 0")
    if augment.strong.gray_prob == 1:
        yield Idle(("augment.strong.saturation", "augment.strong.hue_turns"), "augment.strong.gray_prob is 1")
    if augment.strong.blur_prob == 0:
        of_blur = ("augment.strong.blur_min_sigma_frac", "augment.strong.blur_max_sigma_frac")
        yield Idle(of_blur, "augment.strong.blur_prob is 0")


def _methods(config: RunConfig) -> tuple[str, ...]:
    return *config.compare, config.selector.name


def _reads(method: str) -> set[str]:
    """Return the fields a selector reads; `fixed_threshold@0.8` brings its own threshold."""
    spec = spec_of(method)
    every = {field.path for field in config_fields(SelectorConfig)}
    return (every if spec.reads is None else set(spec.reads)) - ({spec.setting} if "@" in method else set())


def _learns(config: RunConfig) -> bool:
    return any(spec_of(method).learns for method in _methods(config))
