"""Whole configs by name: functions that return a `RunConfig`, and what the large ones need.

`NEEDS` is written from `benchmarks/preset_needs.py`, which counts parameters, memory at its peak and operations of the
real architectures without downloading a weight; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from l2l_ray.config.prior_section import PriorConfig
from l2l_ray.config.run import RunConfig
from l2l_ray.config.sections import ClusterConfig, DataConfig, LoopConfig, SegmenterConfig, SelectorConfig

# Of BERT, which has 512 positions: two for each of the 64 words of `data.max_words`; RefCOCO's longest text has 39. A
# batch is padded to its own longest text, so short ones cost no more.
TEXT_TOKENS = 128


def embedded_config() -> RunConfig:
    """Return the defaults: drawn shapes and tiny models of ours, for two CPU cores."""
    return RunConfig()


def smoke_config() -> RunConfig:
    """Return the embedded run shrunk to about a minute: same parts, tiny counts, to see that everything works."""
    return RunConfig(
        data=DataConfig(num_train_refs=96, num_eval_refs=12, benchmark_frac=0.25),
        segmenter=SegmenterConfig(image_size=64),
        selector=SelectorConfig(warmup_updates=3, round_updates=2, update_batch=8, max_unlabeled=16, group_size=4),
        loop=LoopConfig(
            rounds=2, burn_in_steps=6, fold_steps=4, round_steps=4, labeled_batch=8, unlabeled_batch=8, shard_size=16
        ),
    )


def five_percent_config() -> RunConfig:
    """Return the embedded run long enough that which labels are believed matters, 5 % of the images labeled.

    Source: ours; the schedule of `make compare`, of which `1pct` is the harder half.
    """
    return RunConfig(
        data=DataConfig(num_train_refs=3000, num_eval_refs=400, benchmark_frac=0.05),
        selector=SelectorConfig(num_folds=4),
        loop=LoopConfig(
            rounds=3,
            burn_in_steps=200,
            fold_steps=200,
            round_steps=150,
            labeled_batch=8,
            unlabeled_batch=24,
            ema_decay=0.995,
        ),
    )


def one_percent_config() -> RunConfig:
    """Return the same schedule with 1 % of the images labeled."""
    config = five_percent_config()
    return config.model_copy(update={"data": config.data.model_copy(update={"benchmark_frac": 0.01})})


def lavt_like_config() -> RunConfig:
    """Return the full size on RefCOCO: LAVT's Swin-B + BERT at 480 px with Qwen3-VL-8B, several GPUs, on Ray.

    Source: encoders, image size, batch and the encoders' learning rate follow LAVT (2022) and SemiRES (2024); fusion,
    decoder and their rate are ours. Untried on full-size data.
    """
    return RunConfig(
        data=DataConfig(
            root="data/refer", dataset="refcoco", split_by="unc", benchmark_frac=0.01, image_cache_mb=16384
        ),
        prior=PriorConfig(
            model="Qwen/Qwen3-VL-8B-Instruct",
            dtype="bfloat16",
            max_new_tokens=128,
            min_image_tokens=1024,
            batch_size=16,
        ),
        segmenter=SegmenterConfig(
            backbone="microsoft/swin-base-patch4-window12-384-in22k",
            text="google-bert/bert-base-uncased",
            max_text_tokens=TEXT_TOKENS,
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
            threads_per_prior=2,
            threads_per_labeler=2,
            start_timeout_s=1800,  # an MLLM of 16 GB is read, on first use downloaded, in this time
        ),
    )


def dinov3_config() -> RunConfig:
    """Return `lavt_like` with DINOv3's ViT-B/16 in the place of Swin-B; the hub gives its weights after a form.

    Source: rates are ours, lower for an encoder that has learned without labels. Untried on full-size data.
    """
    return _with_vit("facebook/dinov3-vitb16-pretrain-lvd1689m", image_size=480, patch=16)


def dinov2_config() -> RunConfig:
    """Return `lavt_like` with DINOv2's ViT-B/14 at 476 px in the place of Swin-B; its weights are free to download.

    Source: as `dinov3`. Untried on full-size data.
    """
    return _with_vit("facebook/dinov2-base", image_size=476, patch=14)


def _with_vit(backbone: str, image_size: int, patch: int) -> RunConfig:
    base = lavt_like_config()
    segmenter = {"backbone": backbone, "image_size": image_size, "fusion_stride": patch}
    return base.model_copy(
        update={
            "segmenter": base.segmenter.model_copy(update=segmenter),
            "loop": base.loop.model_copy(update={"backbone_lr_scale": 0.1}),
        }
    )


def small_config() -> RunConfig:
    """Return the segmenter of `lavt_like` on one GPU of 24 GB, with a 4 B language model and half the batch.

    Source: as `lavt_like`; what makes it fit is ours: activations are computed again, and a step goes in pieces.
    """
    base, photos = lavt_like_config(), photos_small_config()
    return base.model_copy(
        update={
            "prior": photos.prior.model_copy(update={"proposal": "box", "sam_model": None}),
            "segmenter": base.segmenter.model_copy(update={"checkpoint_activations": True}),
            "loop": base.loop.model_copy(
                update={"labeled_batch": 8, "unlabeled_batch": 8, "micro_batch": 4, "eval_batch": 16, "lag": 0}
            ),
            "cluster": photos.cluster,
        }
    )


def photos_small_config() -> RunConfig:
    """Return what own photos need at least: a 4 B language model, SAM 2 and a Swin-T segmenter, all on one GPU.

    Source: sizes and steps are ours, for up to some thousand photos; learning rates as in `lavt_like`. Untried on real
    data.
    """
    return RunConfig(
        data=OWN_PHOTOS,
        prior=PriorConfig(
            model="Qwen/Qwen3-VL-4B-Instruct",
            dtype="bfloat16",
            max_new_tokens=128,
            min_image_tokens=1024,
            batch_size=8,
            proposal="sam",
            sam_model="facebook/sam2.1-hiera-small",
        ),
        segmenter=SegmenterConfig(
            backbone="microsoft/swin-tiny-patch4-window7-224",
            text="google-bert/bert-base-uncased",
            max_text_tokens=TEXT_TOKENS,
            image_size=384,
            train_backbone=True,
            width=192,
            fusion_width=256,
            fusion_stride=16,
            num_heads=8,
            prior_dropout_ramp_steps=600,
        ),
        selector=SelectorConfig(update_batch=16),
        loop=LoopConfig(
            rounds=4,
            burn_in_steps=1200,
            fold_steps=600,
            round_steps=600,
            labeled_batch=8,
            unlabeled_batch=8,
            eval_batch=16,
            lr=1e-4,
            encoder_lr_scale=0.5,
            ema_decay=0.999,
            shard_size=128,
            checkpoint_steps=200,
        ),
        cluster=ClusterConfig(
            num_labelers=1,
            prior_resources={"GPU": 0.4},
            labeler_resources={"GPU": 0.2},
            worker_resources={"CPU": 1, "GPU": 0.4},
            start_timeout_s=1800,
        ),
    )


def photos_full_config() -> RunConfig:
    """Return the models of `lavt_like` with SAM 2 for own photos, all on one large GPU.

    Source: as `lavt_like`, with fewer steps, for thousands of photos. Untried on real data.
    """
    small, full = photos_small_config(), lavt_like_config()
    return RunConfig(
        data=OWN_PHOTOS,
        prior=full.prior.model_copy(update={"proposal": "sam", "sam_model": "facebook/sam2.1-hiera-large"}),
        segmenter=full.segmenter,
        selector=small.selector,
        loop=full.loop.model_copy(
            update={
                "burn_in_steps": 4000,
                "fold_steps": 2000,
                "round_steps": 2000,
                "labeled_batch": 8,
                "unlabeled_batch": 8,
                "eval_batch": 16,
                "lag": 0,
            }
        ),
        cluster=small.cluster,
    )


OWN_PHOTOS = DataConfig(root="data", dataset="mine", split_by="own", image_cache_mb=4096)  # as `l2l data import` writes

PRESETS: dict[str, Callable[[], RunConfig]] = {
    "embedded": embedded_config,
    "smoke": smoke_config,
    "5pct": five_percent_config,
    "1pct": one_percent_config,
    "photos-small": photos_small_config,
    "photos-full": photos_full_config,
    "small": small_config,
    "lavt_like": lavt_like_config,
    "dinov2": dinov2_config,
    "dinov3": dinov3_config,
}
RENAMED = {"full": "lavt_like"}  # presets of earlier versions


@dataclass(frozen=True)
class Needs:
    """What a preset needs; estimated, not measured on a GPU.

    Example: `NEEDS["photos-small"].sentence()`
    """

    gpus: int  # at once, all roles together
    gpu_gb: int  # memory of each
    download_gb: int  # weights, once
    hours: int  # at 30 TFLOP/s sustained on each GPU
    work: str  # what takes these hours

    def sentence(self) -> str:
        """Return the needs in words."""
        gpus = "one GPU" if self.gpus == 1 else f"{self.gpus} GPUs"
        hours = "an hour" if self.hours == 1 else f"{self.hours} hours"
        return (
            f"{gpus} with {self.gpu_gb} GB, {self.download_gb} GB of downloads, about {hours} for "
            f"{self.work}; estimated"
        )


PHOTOS, REFCOCO = "1,000 photos", "all of RefCOCO"
NEEDS = {
    "photos-small": Needs(1, 16, 10, 1, PHOTOS),
    "photos-full": Needs(1, 32, 20, 3, PHOTOS),
    "small": Needs(1, 24, 10, 16, REFCOCO),
    "lavt_like": Needs(7, 32, 19, 15, REFCOCO),
    "dinov2": Needs(7, 32, 19, 16, REFCOCO),
    "dinov3": Needs(7, 32, 19, 15, REFCOCO),
}
