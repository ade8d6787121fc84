"""One config: a section per room, frozen, joined in `RunConfig`; presets are functions that return a full one.

Each room is handed its own section, never the whole. The command line and YAML files come from the same models
(`--config run.yaml --selector.reward.coverage 0.2`); unknown fields are errors. The exact config is saved with every
run and a saved config starts the same run again. Source of a default is in its description; "ours" where we chose it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from l2l_ray.errors import ConfigError
from l2l_ray.selector.registry import selectors, spec_of

EMBEDDED = "embedded"


class Section(BaseModel):
    """Base of all sections: frozen, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """Which data set, which split, how much of it is labeled."""

    root: str = Field(EMBEDDED, description="REFER folder; 'embedded' makes RefShapes under the cache folder")
    dataset: str = Field("refshapes", description="Folder name below root: refcoco, refcoco+, refcocog, refshapes, ...")
    split_by: str = Field("l2l", description="Who split it: unc, umd, google, berkeley, l2l")
    labeled_frac: float = Field(0.05, gt=0, le=1, description="Share of train images whose masks are known, in (0, 1]")
    split_seed: int = Field(0, ge=0, description="Seed of the labeled/unlabeled split, by image")
    split_file: str | None = Field(
        None, description="File of labeled image ids by `l2l data split`, in place of split_seed; None = drawn by seed"
    )
    mask_rule: Literal["union", "lavt"] = Field(
        "union", description="An object's parts make its mask by union; 'lavt' leaves out where they overlap, as LAVT"
    )
    num_train_refs: int = Field(4000, ge=8, description="Embedded benchmark only: size of train (ours)")
    num_eval_refs: int = Field(500, ge=4, description="Embedded benchmark only: size of val, testA, testB each (ours)")
    data_seed: int = Field(0, ge=0, description="Embedded benchmark only: seed of its images")
    max_words: int = Field(
        64, ge=1, description="Longer expressions are cut here and counted (ours; RefCOCO's longest: 39)"
    )
    image_cache_mb: int = Field(512, ge=1, description="Bound of the decoded-image cache of one process, MiB")


class PriorConfig(Section):
    """The frozen MLLM, how it is asked, and how its answer becomes a soft proposal."""

    model: str = Field(EMBEDDED, description="Folder or hub id for AutoModelForImageTextToText; 'embedded' ships here")
    prompt: Literal["auto", "qwen", "florence2"] = Field("auto", description="Grounding format; auto = by model type")
    image_size: int = Field(
        128, ge=32, description="Square side shown to the MLLM, px; 0-size families resize themselves"
    )
    max_new_tokens: int = Field(32, ge=8, description="Bound of a reply, tokens")
    num_samples: int = Field(1, ge=1, description="1 = one greedy reply; more = self-consistency over sampled replies")
    temperature: float = Field(0.7, gt=0, description="Sampling temperature when num_samples > 1")
    batch_size: int = Field(32, ge=1, description="Examples per generate call")
    max_wait_s: float = Field(0.02, ge=0, description="How long the micro-batcher waits for a full batch, seconds")
    proposal: Literal["box", "polygon", "sam"] = Field("box", description="Prior -> soft mask")
    sam_model: str | None = Field(None, description="Folder or hub id of SAM/SAM 2; needed when proposal='sam'")
    box_softness: float = Field(
        0.08, gt=0, le=0.5, description="Edge width of the smooth box, fraction of its side (ours)"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto = bfloat16 where it is fast")
    device: str = Field("auto", description="auto = cuda when there is one")


class SegmenterConfig(Section):
    """SESM: encoders, fusion, guidance, hierarchical decoder."""

    backbone: str = Field(EMBEDDED, description="Folder or hub id for AutoBackbone; 'embedded' ships here")
    text: str = Field(EMBEDDED, description="Folder or hub id for AutoModel + AutoTokenizer")
    pretrained: bool = Field(True, description="False: same architectures with random weights (tests)")
    image_size: int = Field(64, ge=32, description="Square input side, px (480 in LAVT)")
    max_text_tokens: int = Field(24, ge=4, description="Expression tokens kept (20 in LAVT)")
    width: int = Field(96, ge=16, description="Channels of the decoder and of the guidance tokens (ours)")
    train_backbone: bool = Field(
        False, description="True in the full preset; the tiny one is a quarter cheaper without"
    )
    fusion_width: int = Field(
        128, ge=16, description="Channels of the cross-modal encoder; fixed by the embedded weights"
    )
    fusion_layers: int = Field(4, ge=1, description="Joint transformer layers over image and text tokens")
    fusion_stride: int = Field(8, ge=4, description="Image stride at which text and image are fused, px")
    num_guidance_tokens: int = Field(8, ge=1, description="Learnable guidance tokens (ours)")
    num_heads: int = Field(4, ge=1, description="Attention heads")
    guidance: bool = Field(True, description="False: no prior, no guidance tokens from q (ablation)")
    self_evolve: bool = Field(True, description="False: every level sees the first proposal (ablation)")
    prior_dropout: float = Field(0.5, ge=0, le=1, description="Final share of samples trained without prior (ours)")
    prior_dropout_ramp_steps: int = Field(
        150, ge=0, description="Steps from 0 to prior_dropout (ours; a trial failed without)"
    )


class RewardConfig(Section):
    """Weights of the reward terms: what Tune sweeps. Source: ours; L2L names only 'priors and model predictions'."""

    correctness: float = Field(
        1.0, ge=0, description="Reward over the fixed-threshold rule's, on cross-fitted labeled images"
    )
    agreement: float = Field(0.3, ge=0, description="Prior agrees with the prediction made without it")
    consistency: float = Field(0.2, ge=0, description="Label is stable across predictions")
    coverage: float = Field(0.1, ge=0, description="Keeps the accepted share near coverage_target")
    utility: float = Field(0.1, ge=0, description="Gradient of the accepted pixels points with the labeled gradient")
    coverage_target: float = Field(0.7, gt=0, lt=1, description="Accepted share that costs nothing")
    wrong_cost: float = Field(1.0, gt=0, description="Cost of a wrong accepted pixel; a right one earns 1")


class SelectorConfig(Section):
    """RPLE and the rules it is compared with: same interface, one field apart."""

    name: str = Field(
        "l2l",
        description="Who decides which pixels to believe: "
        f"{', '.join(spec.name for spec in selectors())}, or module:name for one of your own",
    )
    threshold: float = Field(0.9, gt=0.5, lt=1, description="fixed_threshold: FixMatch .95, DAM-Net .7")
    match_iou: float = Field(0.5, gt=0, lt=1, description="matching: SemiRES IOM, minimum overlap with a candidate")
    hidden: int = Field(32, ge=4, description="Channels of the policy network")
    num_features: int = Field(4, ge=0, description="Projected decoder features in the state; 0 = none")
    group_size: int = Field(6, ge=2, description="Sampled label maps per image (GRPO group)")
    warmup_updates: int = Field(60, ge=0, description="Policy updates before the first labelling")
    round_updates: int = Field(20, ge=0, description="Policy updates per round")
    update_batch: int = Field(
        32, ge=2, description="Cross-fitted labeled images (and as many unlabeled) per policy update"
    )
    lr: float = Field(3e-3, gt=0)
    inner_epochs: int = Field(
        2, ge=1, le=4, description="Clipped steps per sampled group; 1 = strictly on-policy (ours)"
    )
    clip: float = Field(0.2, gt=0, description="Clipped ratio, PPO/GRPO")
    kl: float = Field(0.01, ge=0, description="KL to the previous policy (Seg-Zero: 5e-3)")
    entropy_floor: float = Field(0.05, ge=0, description="Nats per pixel below which entropy is pushed up")
    credit_radius: int = Field(1, ge=0, description="Reward shared with neighbours within this many cells (PixelRL)")
    label_temperature: float = Field(0.0, ge=0, description="Labelling: 0 = most likely action, else sample at it")
    gate: bool = Field(True, description="Sample-level gate; False = every sample is used (ablation)")
    num_folds: int = Field(
        2,
        ge=2,
        description="Folds of the labeled images, each seen through a teacher not trained on it (cross-fitting)",
    )
    max_unlabeled: int = Field(256, ge=0, description="Fixed unlabeled subset used for rewards without truth")
    reward: RewardConfig = RewardConfig()

    @field_validator("name")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        spec = spec_of(name)
        if name != spec.name:
            raise ValueError(f"must be {spec.name!r} alone; set its value by selector.{spec.setting}")
        return name


class LoopConfig(Section):
    """Rounds, steps, optimiser."""

    seed: int = Field(0, ge=0)
    rounds: int = Field(3, ge=1)
    burn_in_steps: int = Field(200, ge=1, description="Supervised steps before the first labelling")
    fold_steps: int = Field(
        100, ge=1, description="Steps of the fold teachers, which see only a part of the labels (ours)"
    )
    round_steps: int = Field(80, ge=1, description="Student steps per round")
    lag: int = Field(0, ge=0, description="Round r is labeled by version max(0, r - lag)")
    labeled_batch: int = Field(16, ge=1, description="Global, not per worker")
    unlabeled_batch: int = Field(16, ge=1, description="Global, not per worker")
    unlabeled_weight: float = Field(1.0, ge=0, description="Weight of the pseudo-label loss")
    lr: float = Field(2e-3, gt=0, description="New parts")
    encoder_lr_scale: float = Field(0.25, ge=0, description="Backbone, text and fusion learn at lr times this")
    weight_decay: float = Field(0.01, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.99, ge=0, lt=1, description="Teacher (SemiRES .9996 at 40 epochs; ours for short runs)")
    shard_size: int = Field(256, ge=1, description="Unlabeled expressions per labelling shard")
    eval_batch: int = Field(64, ge=1)
    autocast: bool = Field(True, description="bfloat16 autocast where the processor has it")
    expressions_per_ref: int = Field(1, ge=1, description="Unlabeled expressions used per ref")
    checkpoint_steps: int = Field(0, ge=0, description="Also checkpoint inside a round every so many steps; 0 = never")


class AugmentConfig(Section):
    """How images, masks and words are changed before the student sees them; words may forbid it (`data.words`)."""

    flip_prob: float = Field(0.5, ge=0, le=1, description="Mirrored, left and right swapped in the words")
    crop_prob: float = Field(0.0, ge=0, le=1, description="Cropped around the referent")
    crop_min_side_frac: float = Field(0.6, gt=0, le=1, description="Shortest side of a crop, as a share of the image")
    paste_prob: float = Field(0.0, ge=0, le=1, description="A labeled object of another image pasted in (CutMix)")
    reword_prob: float = Field(0.0, ge=0, le=1, description="Said with synonyms and other articles")


class ClusterConfig(Section):
    """Who runs where. Moving from a laptop to a cluster changes this section alone."""

    address: str | None = Field(None, description="Ray address; None = RAY_ADDRESS, else a private local cluster")
    num_priors: int = Field(1, ge=1, description="Prior actors, each on its own GPU or prior_gpu slot")
    prior_resources: dict[str, float] = Field(
        {"prior_gpu": 1.0}, description="Per prior actor; {'GPU': 1} on GPU machines"
    )
    num_labelers: int = Field(2, ge=1)
    labeler_resources: dict[str, float] = Field({"CPU": 0.25}, description="Per labeler")
    num_workers: int = Field(1, ge=1, description="Train workers (gloo on CPU, nccl on GPU)")
    worker_resources: dict[str, float] = Field(
        {"CPU": 0.5}, description="Per train worker; {'CPU': 4, 'GPU': 1} on GPU machines"
    )
    threads_per_worker: int = Field(1, ge=1, description="torch threads of a train worker; more pay off on idle cores")
    threads_per_labeler: int = Field(1, ge=1, description="torch threads of a labeler or prior actor")
    start_timeout_s: float = Field(120.0, gt=0, description="Longest wait for an actor or the train group to come up")
    max_failures: int = Field(
        3, ge=0, description="Train group restarts, or deaths on one shard, before the run gives up"
    )
    work_timeout_s: float = Field(1800.0, gt=0, description="Longest time of one shard, evaluation slice or MLLM batch")
    progress_every_s: float = Field(10.0, gt=0, description="Seconds between progress lines where there is no terminal")


class RunConfig(Section):
    """A whole run."""

    name: str | None = Field(None, description="Folder name under run_root; None = <dataset>-<selector>-s<seed>")
    run_root: str | None = Field(None, description="Absolute; None = $L2L_HOME, else ~/l2l_runs")
    resume: bool = Field(False, description="Continue this run from its last committed shard and checkpoint")
    compare: tuple[str, ...] = Field(
        (), description="Also run these selectors (or 'fixed_threshold@0.8') from the same burn-in, for the table"
    )
    data: DataConfig = DataConfig()
    prior: PriorConfig = PriorConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    selector: SelectorConfig = SelectorConfig()
    loop: LoopConfig = LoopConfig()
    augment: AugmentConfig = AugmentConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _methods_exist_once(self) -> Self:
        methods = [*self.compare, self.selector.name]
        for method in self.compare:
            selector_for(self.selector, method)
        if len(set(methods)) < len(methods):
            raise ValueError(f"compare and selector.name must name each selector once, got {methods}")
        return self

    @property
    def root(self) -> Path:
        """Absolute run root: explicit, else $L2L_HOME, else ~/l2l_runs."""
        return Path(self.run_root or os.environ.get("L2L_HOME") or Path.home() / "l2l_runs").expanduser().absolute()

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


def smoke_config() -> RunConfig:
    """Return the embedded run shrunk to about half a minute: same parts, tiny counts. For tests and `make smoke`."""
    return RunConfig(
        data=DataConfig(num_train_refs=96, num_eval_refs=12, labeled_frac=0.25),
        selector=SelectorConfig(warmup_updates=3, round_updates=2, update_batch=8, max_unlabeled=16, group_size=4),
        loop=LoopConfig(
            rounds=2, burn_in_steps=6, fold_steps=4, round_steps=4, labeled_batch=8, unlabeled_batch=8, shard_size=16
        ),
    )


def full_config() -> RunConfig:
    """Return the full-size preset: Swin-B + BERT at 480 px on RefCOCO with Qwen3-VL priors, one GPU per role.

    Source: image size, batch and learning rates follow LAVT (2022) and SemiRES (2024); the rest is ours and untried
    on full-size data.
    """
    return RunConfig(
        data=DataConfig(root="data/refer", dataset="refcoco", split_by="unc", labeled_frac=0.01, image_cache_mb=16384),
        prior=PriorConfig(model="Qwen/Qwen3-VL-8B-Instruct", dtype="bfloat16", max_new_tokens=128, batch_size=16),
        segmenter=SegmenterConfig(
            backbone="microsoft/swin-base-patch4-window12-384-in22k",
            text="google-bert/bert-base-uncased",
            image_size=480,
            train_backbone=True,
            width=256,
            fusion_width=256,
            fusion_stride=16,
            num_heads=8,
            num_guidance_tokens=16,
            prior_dropout_ramp_steps=4000,
        ),
        loop=LoopConfig(
            rounds=8,
            burn_in_steps=8000,
            fold_steps=8000,
            round_steps=4000,
            labeled_batch=16,
            unlabeled_batch=16,
            lr=1e-4,
            encoder_lr_scale=0.5,
            ema_decay=0.9996,
            checkpoint_steps=500,
            lag=1,
            expressions_per_ref=1,
        ),
        cluster=ClusterConfig(
            num_labelers=4,
            num_workers=4,
            prior_resources={"GPU": 1},
            labeler_resources={"GPU": 0.5},
            worker_resources={"CPU": 4, "GPU": 1},
            threads_per_worker=4,
            threads_per_labeler=2,
            start_timeout_s=1800,  # an MLLM of 16 GB is read, on first use downloaded, in this time
        ),
    )


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
        raise ConfigError(f"method {method!r} of `compare`: {_explain(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"method {method!r} of `compare`: {error}") from None


PRESETS = {"embedded": RunConfig, "smoke": smoke_config, "full": full_config}


def load_config(argv: Sequence[str] = ()) -> RunConfig:
    """Build the config from command-line words.

    Order, later wins: preset (`--preset smoke`, default embedded) < file (`--config run.yaml`) < fields
    (`--selector.reward.coverage 0.2`, `--resume`).

    Args:
        argv: Words after the program's name.
    Returns:
        A validated `RunConfig`.
    Raises:
        ConfigError: Unknown field, wrong value, unreadable file; the message names the field and what it accepts.
    """
    preset, file, rest = _take_options(list(argv))
    base = PRESETS[preset]().model_dump()
    if file is not None:
        base = _merge(base, _read_yaml(Path(file)))
    try:
        return _cli_config(base, rest)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def read_config(path: Path) -> RunConfig:
    """Read a saved `config.yaml`.

    Raises:
        ConfigError: The file is missing, not YAML, or does not fit this version's fields.
    """
    try:
        return RunConfig.model_validate(_read_yaml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from None


def _cli_config(base: dict[str, Any], words: list[str]) -> RunConfig:
    """Lay `--section.field value` words over `base`, checked by the models."""
    from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
    from pydantic_settings.exceptions import SettingsError

    class Cli(RunConfig, BaseSettings):
        model_config = SettingsConfigDict(
            extra="forbid", cli_implicit_flags=True, cli_exit_on_error=False, cli_prog_name="l2l"
        )

    try:
        given = CliSettingsSource[Any](Cli, cli_parse_args=_flags(words))()
    except SettingsError as error:
        raise ConfigError(f"command line: {error}; `--help` lists every field with its default") from None
    return RunConfig.model_validate(_merge(base, given))


def _flags(words: list[str]) -> list[str]:
    """Turn `--loop.autocast false` into the parser's own `--no-loop.autocast`, and `true` into the bare option."""
    joined: list[str] = []
    for word in words:
        if word.lower() in ("true", "false") and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    flags = []
    for word in joined:
        option, _, value = word.partition("=")
        flags.append({"true": option, "false": f"--no-{option[2:]}"}.get(value.lower(), word))
    return flags


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
        raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    return preset, taken["--config"], rest


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}") from None
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


def _explain(error: ValidationError) -> str:
    """One line per wrong field: its path, what it got, what it expects."""
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"]) or "config"
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown field {field}; `--help` lists every field")
        else:
            lines.append(f"{field}: {item['msg']}, got {item['input']!r}")
    return "; ".join(lines)


def config_yaml(config: RunConfig) -> str:
    """Return every field of `config` as YAML."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def save_config(config: RunConfig, path: Path) -> None:
    """Write `config` as YAML that `read_config` reads back to an equal object."""
    path.write_text(config_yaml(config))
