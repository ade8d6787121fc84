"""Which settings are named as having no effect, in which configuration, and why."""

from __future__ import annotations

import pytest

from l2l_ray.config import Command, RunConfig, SelectorConfig, config_fields, idle_fields, load_config, notices
from l2l_ray.selector.registry import selectors


def told(words: str, command: Command | None = None) -> list[str]:
    return notices(load_config(words.split()), RunConfig(), command)


OWN = "--data.root /d --data.dataset refcoco --data.split_by unc"
RULE = "--selector.name accept_all"


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (f"{OWN} --data.num_train_refs 9", "data.num_train_refs"),
        (f"{OWN} --data.num_eval_refs 9", "data.num_eval_refs"),
        (f"{OWN} --data.data_seed 9", "data.data_seed"),
        (f"{RULE} --data.split_file f --data.split_seed 1", "data.split_seed"),
        ("--data.val_from_labeled 0.5", "data.val_from_labeled"),
        ("--data.split_file f --data.benchmark_frac 0.5", "data.benchmark_frac"),
        ("--data.labeled_frac 0.1 --data.benchmark_frac 0.5", "data.benchmark_frac"),
        ("--prior.model org/model --prior.image_size 64", "prior.image_size"),
        ("--prior.temperature 0.5", "prior.temperature"),
        ("--prior.sam_model org/sam", "prior.sam_model"),
        ("--prior.proposal sam --prior.sam_model org/sam --prior.box_softness 0.2", "prior.box_softness"),
        ("--segmenter.guidance false --segmenter.prior_dropout 0.2", "segmenter.prior_dropout"),
        ("--segmenter.prior_dropout 0 --segmenter.prior_dropout_ramp_steps 5", "segmenter.prior_dropout_ramp_steps"),
        (f"{RULE} --selector.threshold 0.8", "selector.threshold"),
        (f"{RULE} --selector.lr 0.1", "selector.lr"),
        (f"{RULE} --selector.reward.unlabeled 0.2", "selector.reward.unlabeled"),
        ("--selector.name scorer --selector.group_size 4", "selector.group_size"),
        ("--selector.name pwa --compare fixed_threshold@0.8 --selector.threshold 0.7", "selector.threshold"),
        ("--selector.name supervised --selector.match_iou 0.4", "selector.match_iou"),
        ("--selector.cells false --selector.reward.wrong_cost 2", "selector.reward.wrong_cost"),
        ("--selector.max_unlabeled 0 --selector.reward.unlabeled 0.2", "selector.reward.unlabeled"),
        ("--selector.name confidence_gate --selector.threshold 0.8", "selector.threshold"),
        ("--selector.threshold 0.8", "selector.threshold"),
        ("--selector.name scorer --selector.threshold 0.8", "selector.threshold"),
        (f"{RULE} --selector.reward.gate_margin 0.1", "selector.reward.gate_margin"),
        ("--selector.name confidence_gate --selector.candidates false", "selector.candidates"),
        (
            "--selector.warmup_updates 0 --selector.round_updates 0 --selector.group_size 4",
            "selector.group_size",
        ),
        (
            "--selector.warmup_updates 0 --selector.round_updates 0 --selector.reward.wrong_cost 2",
            "selector.reward.wrong_cost",
        ),
        (f"{RULE} --loop.fold_steps 5", "loop.fold_steps"),
        ("--data.labeled_frac 1 --selector.max_unlabeled 5", "selector.max_unlabeled"),
        ("--selector.name supervised --loop.unlabeled_batch 4", "loop.unlabeled_batch"),
        ("--selector.name online --loop.lag 1", "loop.lag"),
        ("--selector.name online --compare supervised --loop.shard_size 4", "loop.shard_size"),
        ("--data.labeled_frac 1 --loop.unlabeled_weight 2", "loop.unlabeled_weight"),
        ("--loop.rounds 1 --loop.lag 1", "loop.lag"),
        ("--augment.crop_min_side_frac 0.5", "augment.crop_min_side_frac"),
        ("--augment.strong.jitter_prob 0 --augment.strong.hue_turns 0.1", "augment.strong.hue_turns"),
        ("--augment.strong.gray_prob 1 --augment.strong.saturation 0.1", "augment.strong.saturation"),
        (
            "--augment.strong.blur_prob 0 --augment.strong.blur_max_sigma_frac 0.02",
            "augment.strong.blur_max_sigma_frac",
        ),
    ],
)
def test_a_field_without_effect_is_named(words: str, field: str) -> None:
    (sentence,) = told(words)
    assert sentence.startswith(f"{field} has no effect: ")


@pytest.mark.parametrize(
    "words",
    [
        "--data.num_train_refs 9 --data.data_seed 9 --prior.image_size 64 --prior.box_softness 0.2",
        "--prior.num_samples 3 --prior.temperature 0.5",
        "--prior.proposal sam --prior.sam_model org/sam",
        "--prior.model org/florence --prior.proposal polygon --prior.box_softness 0.2",  # boxes where polygons lack
        "--selector.lr 0.1 --selector.candidates false --selector.reward.unlabeled 0.2 --loop.fold_steps 5",
        f"{RULE} --compare l2l --selector.lr 0.1 --selector.group_size 4 --loop.fold_steps 5",
        "--selector.name fixed_threshold --selector.threshold 0.8 --loop.unlabeled_batch 4 --loop.lag 1",
        "--selector.name scorer --selector.cells true --selector.reward.wrong_cost 2 --selector.hidden 8",
        "--selector.name scorer --selector.candidates false",
        "--selector.warmup_updates 0 --selector.round_updates 0 --loop.fold_steps 5",  # the gate is still set on them
        "--selector.name confidence_gate --selector.reward.gate_margin 0.1 --selector.max_unlabeled 5",
        "--selector.name online --selector.threshold 0.8 --loop.unlabeled_batch 4 --loop.expressions_per_ref 2",
        "--selector.name online --compare pwa --loop.lag 1 --loop.shard_size 4",
        "--selector.name pwa --compare matching --selector.match_iou 0.4",
        "--augment.crop_prob 0.5 --augment.crop_min_side_frac 0.5 --augment.strong.hue_turns 0.1",
        "--segmenter.prior_dropout 0.2 --segmenter.prior_dropout_ramp_steps 5",
        "--segmenter.lora_rank 4 --loop.text_lr_scale 1",
        "--segmenter.train_backbone true --loop.backbone_lr_scale 0.1 --segmenter.lora_rank 4",
    ],
)
def test_a_field_with_an_effect_is_not_named(words: str) -> None:
    assert told(words) == []


def test_an_effect_that_is_left_is_said() -> None:
    assert told("--data.split_file f --data.split_seed 1") == [
        "data.split_seed has no effect on which images are labeled: data.split_file says which images are labeled"
    ]
    (sentence,) = told("--selector.name supervised --loop.expressions_per_ref 2")
    assert sentence.startswith("loop.expressions_per_ref has no effect on training: ")


def test_a_rate_of_an_encoder_that_rests_says_what_still_learns() -> None:
    assert told("--loop.backbone_lr_scale 1") == [
        "loop.backbone_lr_scale has no effect on the image encoder's own weights: segmenter.train_backbone is off"
    ]
    text, sentence = told("--segmenter.train_text false --segmenter.lora_rank 2 --loop.text_lr_scale 1")
    assert text == "loop.text_lr_scale has no effect: segmenter.train_text is off"
    assert sentence.startswith("segmenter.lora_rank has no effect: segmenter.train_backbone and train_text are off")


def test_who_would_read_a_field_is_said() -> None:
    (sentence,) = told("--selector.name accept_all --selector.match_iou 0.4")
    assert sentence == (
        "selector.match_iou has no effect: none of this run's selectors (accept_all) reads it; "
        "matching, agreement would"
    )


def test_what_depends_on_who_runs_it() -> None:
    words = "--cluster.num_labelers 3 --cluster.threads_per_labeler 2 --prior.max_wait_s 1 --resume"
    assert told(words) == told(words, "job") == []
    cluster, wait = told(words, "run")
    assert cluster.startswith("cluster.num_labelers, cluster.threads_per_labeler have no effect: `l2l run`")
    assert wait.startswith("prior.max_wait_s has no effect: ")
    (threads,) = told(words, "sweep")
    assert threads.startswith("cluster.threads_per_labeler has no effect: ")


def test_what_a_sweep_decides_itself() -> None:
    name, seed, compare = told("--name x --loop.seed 3 --compare pwa", "sweep")
    assert name.startswith("name has no effect: ") and "--sweep-name" in name
    assert seed.startswith("loop.seed has no effect: ") and "--seeds" in seed
    assert compare.startswith("compare has no effect: ")


def test_fields_of_one_reason_share_a_sentence_and_none_comes_twice() -> None:
    (sentence,) = told(
        "--selector.name supervised --compare pwa --selector.group_size 4 --selector.reward.unlabeled 0.1"
    )
    assert sentence.startswith(
        "selector.group_size, selector.reward.unlabeled have no effect: none of this run's selectors (pwa, supervised)"
    )
    (sentence,) = told("--data.labeled_frac 1 --loop.rounds 1 --loop.lag 2")
    assert sentence.count("loop.lag") == 1


def test_every_field_of_the_selector_section_is_read_by_a_selector_and_no_other_is_named() -> None:
    read = {name for spec in selectors() for name in spec.reads or ()}
    assert read == {field.path for field in config_fields(SelectorConfig)} - {"name"}


def test_every_field_that_is_named_exists() -> None:
    known = {field.path for field in config_fields(RunConfig)}
    off = {"warmup_updates": 0, "round_updates": 0}
    for name in ("l2l", "supervised", "scorer"):
        config = RunConfig.model_validate({"selector": {"name": name, **off}, "data": {"labeled_frac": 1.0}})
        for command in ("run", "sweep"):
            named = {field for idle in idle_fields(config, command) for field in idle.fields}
            assert len(named) > 10 and named <= known
