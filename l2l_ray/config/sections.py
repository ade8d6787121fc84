"""The sections of a config, one per part of the package: frozen, unknown fields refused, every field described.

A description says what the field does, its unit and where its default comes from: a paper or repository where we
follow one, "ours" where we chose it. The range is in the field's bounds. `docs/config.md` is written from here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from l2l_ray.config.fields import EMBEDDED, Section
from l2l_ray.config.places import below
from l2l_ray.selector.registry import selectors, spec_of


def _own_names(resources: dict[str, float]) -> dict[str, float]:
    """Refuse what looks like a resource of Ray's and is none: a run would take it for a custom one, and use no GPU."""
    known = {"cpu": "CPU", "gpu": "GPU", "memory": "memory", "num_cpus": "CPU", "num_gpus": "GPU"}
    for name in resources:
        if (right := known.get(name.lower(), name)) != name:
            raise ValueError(f"has {name!r}, which is no resource of Ray; write {right!r}")
    return resources


Resources = Annotated[dict[str, Annotated[float, Field(ge=0)]], AfterValidator(_own_names)]  # Ray resource -> amount


class DataConfig(Section):
    """Which data set, which split of it, and how much of it is labeled."""

    root: str = Field(
        EMBEDDED,
        description="Folder in the layout of REFER, or a place in an object store (s3://bucket/refer); 'embedded' "
        "draws RefShapes, our own small benchmark",
    )
    dataset: str = Field(
        "refshapes",
        description="Folder of the data set below root, e.g. refcoco; embedded: refshapes, refshapes+ or refshapesg",
    )

    @field_validator("dataset")
    @classmethod
    def _below_root(cls, name: str) -> str:
        return below(name)

    split_by: str = Field(
        "l2l", description="Who split it: unc, umd, google or berkeley (REFER); own, of data of your own; embedded: l2l"
    )
    labeled_frac: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the train images whose masks are known to training; null = every mask there is, or "
        "benchmark_frac of a benchmark (ours)",
    )
    benchmark_frac: float = Field(
        0.05,
        gt=0,
        le=1,
        description="labeled_frac of a benchmark: published data, or RefShapes; set for data of a root of your own, it "
        "is their labeled_frac whatever they are (ours)",
    )
    val_from_labeled: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="Without a val split in the data: share of the labeled images held out as val; 0 = none (ours)",
    )
    split_seed: int = Field(
        0, ge=0, description="Seed that draws which images are labeled or held out, and the folds of the labeled ones"
    )
    split_file: str | None = Field(
        None, description="File with the ids of the labeled images (`l2l data split`); null = drawn by split_seed"
    )
    mask_rule: Literal["union", "lavt"] = Field(
        "union",
        description="An object of several parts: 'union' keeps every pixel; 'lavt' drops overlaps, as LAVT does",
    )
    num_train_refs: int = Field(2500, ge=8, description="Embedded data only: referred objects in train (ours)")
    num_eval_refs: int = Field(
        300, ge=4, description="Embedded data only: referred objects in each of val, testA and testB (ours)"
    )
    data_seed: int = Field(0, ge=0, description="Embedded data only: seed of its images and expressions")
    max_words: int = Field(
        64,
        ge=1,
        description="Words of an expression; what is longer is cut and counted (ours; RefCOCO's longest has 39)",
    )
    image_cache_mb: int = Field(512, ge=1, description="Memory for decoded images in each process, MiB (ours)")


class SegmenterConfig(Section):
    """SESM, the segmenter: image and text encoders, their fusion, guidance by the prior, hierarchical decoder."""

    backbone: str = Field(
        EMBEDDED, description="Image encoder: folder or hub id for AutoBackbone; 'embedded' = the small one we ship"
    )
    text: str = Field(
        EMBEDDED, description="Text encoder: folder or hub id for AutoModel; 'embedded' = the small one we ship"
    )
    pretrained: bool = Field(True, description="False: the same encoders with random weights (for tests)")
    image_size: int = Field(96, ge=32, description="Side of the square image it sees, px (ours; 480 in LAVT)")
    max_text_tokens: int = Field(
        24, ge=4, description="Tokens of an expression that the segmenter reads, at most the text encoder's positions; "
        "longer ones are cut and counted (20 in LAVT)",
    )  # fmt: skip
    width: int = Field(96, ge=16, description="Channels of the decoder and of the guidance tokens (ours)")
    train_backbone: bool = Field(
        False, description="Whether the image encoder's pretrained weights learn; a step costs a quarter less without"
    )
    train_text: bool = Field(True, description="Whether the text encoder's weights learn")
    lora_rank: int = Field(
        0,
        ge=0,
        description="Those encoders that learn do so by LoRA adapters of this rank in their linear layers, while their "
        "own weights rest; 0 = their own weights learn (ours; needs the extra lora)",
    )
    checkpoint_activations: bool = Field(
        False,
        description="Whether encoder and fusion layers are computed again for the gradient, not kept: less memory, "
        "slower steps",
    )
    fusion_width: int = Field(
        128, ge=16, description="Channels of the image-text transformer; 128 fits the weights we ship"
    )
    fusion_layers: int = Field(4, ge=1, description="Layers of the image-text transformer; 4 fits the weights we ship")
    fusion_stride: int = Field(
        8, ge=4, description="Cell side at which image and text meet, px; 8 fits the weights we ship"
    )
    num_guidance_tokens: int = Field(
        8, ge=1, description="Learned tokens that carry prior and expression into the decoder (ours)"
    )
    num_heads: int = Field(
        4, ge=1, description="Attention heads; width must be a multiple of it, fusion_width of 4 times it (ours)"
    )
    guidance: bool = Field(True, description="False: the segmenter never sees the prior (ablation)")
    self_evolve: bool = Field(
        True,
        description="False: every decoder level sees the MLLM's proposal, not the mask of the level before (ablation)",
    )
    prior_dropout: float = Field(
        0.5, ge=0, le=1, description="Share of training samples whose prior is hidden, at the end of the ramp (ours)"
    )
    prior_dropout_ramp_steps: int = Field(
        150,
        ge=0,
        description="Steps in which that share grows from 0 (ours; without it a trial never learned to ground)",
    )


class RewardConfig(Section):
    """What a label earns: what a sweep tunes. L2L names only 'priors and model predictions'; all is ours."""

    gate_margin: float = Field(
        0.0,
        ge=-0.5,
        le=0.5,
        description="How much better than the average label, in IoU, a label must be for using it to pay (ours)",
    )
    wrong_cost: float = Field(
        1.0, gt=0, description="What keeping a wrong pixel costs, where a right one earns 1 (ours)"
    )
    unlabeled: float = Field(
        0.3,
        ge=0,
        description="Weight of unlabeled images: their labels are judged by prior and predictions, as far as these "
        "tell right from wrong on labeled images (ours)",
    )


class SelectorConfig(Section):
    """Who decides which pseudo-labels training believes: RPLE and the rules it is compared with."""

    name: str = Field(
        "l2l",
        description=f"The selector: {', '.join(spec.name for spec in selectors())}; "
        "or module:name for one of your own. l2l is RPLE, trained by reinforcement learning",
    )
    threshold: float = Field(
        0.9,
        gt=0.5,
        lt=1,
        description="Least probability of a label that fixed_threshold and online accept "
        "(ours; FixMatch .95, DAM-Net .7)",
    )
    rate: float = Field(0.5, gt=0, lt=1, description="Share of the labels that random_gate uses (ours)")
    match_iou: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Least IoU of two masks that count as the same object, for matching and agreement (SemiRES)",
    )
    hidden: int = Field(32, ge=4, description="Channels of RPLE's network (ours)")
    group_size: int = Field(
        6, ge=2, description="Decisions drawn per image and compared with one another (ours; the group of GRPO)"
    )
    warmup_updates: int = Field(60, ge=0, description="Selector updates before the first labelling (ours)")
    round_updates: int = Field(10, ge=0, description="Selector updates after each round (ours)")
    update_batch: int = Field(
        32, ge=2, description="Labeled images per selector update, and as many unlabeled ones (ours)"
    )
    lr: float = Field(2e-3, gt=0, description="Learning rate of the selector's Adam (ours)")
    gate: bool = Field(
        True, description="Whether l2l and scorer may leave a sample out; False = they use every label (ablation)"
    )
    candidates: bool = Field(
        True, description="Whether l2l and scorer may take another label than the teacher's guided one (ablation)"
    )
    rivals: bool = Field(
        True,
        description="Whether l2l and scorer see what the image's other expressions claim (ablation)",
    )
    cells: bool = Field(
        False,
        description="Whether l2l and scorer also decide pixel by pixel; False = on whole labels (off by a sweep, "
        "docs/experiments.md)",
    )
    num_folds: int = Field(
        2,
        ge=2,
        description="Parts of the labeled images; each is rewarded through a teacher trained on the other parts (ours)",
    )
    max_unlabeled: int = Field(
        512,
        ge=0,
        description="Unlabeled expressions, always the same: for the reward without truth, and for how far gates open "
        "(ours)",
    )
    reward: RewardConfig = RewardConfig()

    @field_validator("name")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        spec = spec_of(name)
        if name != spec.name:
            raise ValueError(f"must be {spec.name!r} alone; set its value by selector.{spec.setting}")
        return name


class LoopConfig(Section):
    """Rounds, steps and the student's optimiser."""

    seed: int = Field(0, ge=0, description="Seed of new weights, batches, augmentation and labelling; not of the data")
    rounds: int = Field(3, ge=1, description="Rounds of labelling and training after the burn-in (ours)")
    burn_in_steps: int = Field(
        200, ge=1, description="Student steps on labeled images alone, before the first labelling (ours)"
    )
    fold_steps: int = Field(
        100, ge=1, description="Steps of each teacher that sees a part of the labeled images only (ours)"
    )
    round_steps: int = Field(80, ge=1, description="Student steps per round (ours)")
    lag: int = Field(
        0,
        ge=0,
        description="Round r is labeled by version max(0, r - lag); 1 lets labelling and training overlap (ours)",
    )
    labeled_batch: int = Field(16, ge=1, description="Labeled samples per step, over all workers together (ours)")
    unlabeled_batch: int = Field(16, ge=1, description="Pseudo-labeled samples per step, over all workers (ours)")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="Samples of a step that go through the student at once, in each train worker; their gradients add "
        "up to those of the whole step. null = all, halved where memory runs out (ours)",
    )
    unlabeled_weight: float = Field(
        1.0, ge=0, description="Weight of the pseudo-labels' loss; labeled images have 1 (FixMatch)"
    )
    dice_weight: float = Field(
        0.5,
        ge=0,
        description="Weight of the Dice loss; cross-entropy has 1 (ours; 0.25 in LISA, whose objects are larger)",
    )
    deep_weight: float = Field(
        0.4, ge=0, description="Weight of the coarser decoder levels' loss together; the finest has 1 (ours)"
    )
    lr: float = Field(2e-3, gt=0, description="Learning rate of new parts, AdamW (ours)")
    encoder_lr_scale: float = Field(
        0.25, ge=0, description="Image encoder, text encoder and fusion learn at lr times this (ours)"
    )
    backbone_lr_scale: float | None = Field(
        None, ge=0, description="The image encoder learns at lr times this; null = encoder_lr_scale (ours)"
    )
    text_lr_scale: float | None = Field(
        None, ge=0, description="The text encoder learns at lr times this; null = encoder_lr_scale (ours)"
    )
    lr_warmup_steps: int = Field(
        20,
        ge=1,
        description="Steps in which the learning rate grows to lr; 1 = none (ours: AdamW's first steps are noisy)",
    )
    lr_decay_power: float = Field(
        0.9, ge=0, description="Learning rate falls as (1 - step / all steps) to this power; 0 = constant (LAVT)"
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay; norms and biases have none (LAVT)")
    grad_clip: float = Field(1.0, gt=0, description="Largest norm of the student's gradient (ours)")
    ema_decay: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="The teacher keeps this share of itself per step; the first 1 / (1 - this) steps, also of the "
        "burn-in, are averaged plainly (ours; SemiRES .9996 for long runs)",
    )
    shard_size: int = Field(
        256, ge=1, description="Unlabeled expressions in a shard, which is labeled and saved as a whole (ours)"
    )
    eval_batch: int = Field(64, ge=1, description="Samples per forward pass outside of training (ours)")
    autocast: bool = Field(True, description="Whether to compute in bfloat16 where the processor is fast at it")
    compile: bool = Field(
        False, description="Whether torch.compile makes the student's passes: minutes at the start, faster steps"
    )
    expressions_per_ref: int = Field(
        1, ge=1, description="Expressions used per unlabeled object; the others rest (ours)"
    )
    checkpoint_steps: int = Field(
        0, ge=0, description="Also save the training state every so many steps inside a round; 0 = never (ours)"
    )


class StrongConfig(Section):
    """How far colours and sharpness change: factors are drawn from 1 - x to 1 + x.

    Milder than UniMatch in hue and grey, because expressions name colours: an image whose red car is grey no longer
    shows what its expression says.
    """

    jitter_prob: float = Field(0.8, ge=0, le=1, description="Share of images whose colours are changed (UniMatch)")
    brightness: float = Field(
        0.4, ge=0, le=1, description="Largest change of the brightness factor (ours; UniMatch 0.5)"
    )
    contrast: float = Field(0.4, ge=0, le=1, description="Largest change of the contrast factor (ours; UniMatch 0.5)")
    saturation: float = Field(
        0.4, ge=0, le=1, description="Largest change of the saturation factor (ours; UniMatch 0.5)"
    )
    hue_turns: float = Field(
        0.02, ge=0, le=0.5, description="Largest turn of the hue, in full turns (ours; UniMatch 0.25)"
    )
    gray_prob: float = Field(0.1, ge=0, le=1, description="Share of images without colour (ours; UniMatch 0.2)")
    blur_prob: float = Field(0.5, ge=0, le=1, description="Share of images that are blurred (UniMatch)")
    blur_min_sigma_frac: float = Field(
        0.001, gt=0, le=0.1, description="Least blur: sigma as a share of the image's side, 0.06 px of 64 (ours)"
    )
    blur_max_sigma_frac: float = Field(
        0.01, gt=0, le=0.1, description="Most blur: sigma as a share of the image's side, 0.6 px of 64 (ours)"
    )


class AugmentConfig(Section):
    """How images, masks and words change before the student sees them, where the words allow it (`data/words.py`)."""

    flip_prob: float = Field(
        0.5, ge=0, le=1, description="Share mirrored, left and right swapped in the words (DAM-Net)"
    )
    crop_prob: float = Field(0.0, ge=0, le=1, description="Share cropped around the referred object (ours)")
    crop_min_side_frac: float = Field(
        0.6, gt=0, le=1, description="Shortest side of a crop, as a share of the image's side (ours)"
    )
    paste_prob: float = Field(
        0.0, ge=0, le=1, description="Share into which a labeled object of another image is pasted (after CutMix)"
    )
    reword_prob: float = Field(0.0, ge=0, le=1, description="Share said with synonyms and other articles (ours)")
    strong: StrongConfig = StrongConfig()


class ClusterConfig(Section):
    """Who runs where on Ray; a move from laptop to cluster changes this section alone. `l2l run` reads none of it."""

    address: str | None = Field(
        None,
        description="Ray's address; `auto`: this machine's cluster, `local`: a private one; null = RAY_ADDRESS, else "
        "`local`",
    )
    autoscaled: bool = Field(
        False,
        description="Whether the cluster adds nodes for what actors ask: what it lacks at the start is then waited for "
        "(start_timeout_s), not refused",
    )
    num_priors: int = Field(1, ge=1, description="Prior actors; each holds the whole MLLM (ours)")
    prior_resources: Resources = Field(
        {"prior_gpu": 1.0}, description="Ray resources of one prior actor; {'GPU': 1} on GPU machines"
    )
    num_labelers: int = Field(2, ge=1, description="Labelers: actors that label and evaluate (ours)")
    labeler_resources: Resources = Field({"CPU": 0.25}, description="Ray resources of one labeler")
    num_workers: int = Field(1, ge=1, description="Train workers; they talk through nccl on GPUs, gloo on CPUs (ours)")
    worker_resources: Resources = Field(
        {"CPU": 0.5}, description="Ray resources of one train worker; {'CPU': 4, 'GPU': 1} on GPU machines"
    )
    threads_per_prior: int = Field(1, ge=1, description="torch threads of a prior actor (ours)")
    threads_per_labeler: int = Field(1, ge=1, description="torch threads of a labeler (ours)")
    threads_per_worker: int = Field(
        2, ge=1, description="torch threads of a train worker; labelers need little of the cores while it trains (ours)"
    )
    start_timeout_s: float = Field(
        120.0, gt=0, description="Longest wait for an actor or the train workers to come up, seconds (ours)"
    )
    heartbeat_timeout_s: float = Field(
        30.0,
        gt=0,
        le=60,
        description="Longest silence of an actor or train worker before it is replaced, however long its work takes, "
        "seconds (ours)",
    )
    work_timeout_s: float = Field(
        1800.0,
        gt=0,
        description="Longest time for one shard, slice of an evaluation or MLLM batch, seconds; less once it is seen "
        "how long they take, but for a labeler's last try (ours)",
    )
    max_train_restarts: int = Field(
        3,
        ge=0,
        description="How often Ray Train starts lost train workers again, and how often it is itself started again "
        "(ours)",
    )
    max_item_retries: int = Field(
        3,
        ge=0,
        description="How often a shard, slice or question is tried again whose actor died, hung or failed (ours)",
    )
    progress_every_s: float = Field(
        10.0, gt=0, description="Seconds between progress lines where there is no terminal (ours)"
    )
