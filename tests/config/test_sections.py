"""Every field says what it is, in which unit and range; the presets stay inside both."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from l2l_ray.config import ConfigField, RunConfig, config_fields, field_value, lavt_like_config, range_text

FIELDS = list(config_fields(RunConfig))
SOURCES = ("(DAM-Net)", "(FixMatch)", "(LAVT)", "20 in LAVT", "(PPO)", "(SemiRES)", "(UniMatch)", "the weights we ship")
UNITS = ("px", "MiB", "seconds", "tokens", "steps", "Ray resources")
by_path = pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.path)


def is_number(field: ConfigField) -> bool:
    kinds = {field.info.annotation, *get_args(field.info.annotation)}
    return bool(kinds & {int, float}) and bool not in kinds


@by_path
def test_a_field_is_described_in_one_line(field: ConfigField) -> None:
    text = field.info.description
    assert text, f"{field.path} has no description"
    assert len(text.split()) >= 3 and "\n" not in text
    assert "%" not in text, "argparse takes it for a format"


@by_path
def test_a_number_has_a_range_or_a_unit(field: ConfigField) -> None:
    if is_number(field):
        text = field.info.description or ""
        assert range_text(field.info) or any(unit in text for unit in UNITS), f"{field.path}: no bound and no unit"


@by_path
def test_a_number_says_where_its_default_comes_from(field: ConfigField) -> None:
    if is_number(field) and "seed" not in field.path:
        text = field.info.description or ""
        assert re.search(r"\((?:ours|as |after )", text) or any(source in text for source in SOURCES), field.path


@by_path
def test_a_length_or_a_time_states_its_unit(field: ConfigField) -> None:
    text, units = (
        (field.info.description or "").lower(),
        {"_s": "seconds", "_mb": "mib", "image_size": "px", "_stride": "px"},
    )
    for ending, unit in units.items():
        assert not field.path.endswith(ending) or unit in text, f"{field.path} is in {unit}, and does not say so"


def test_every_field_is_found_by_its_path() -> None:
    paths = [field.path for field in FIELDS]
    assert len(set(paths)) == len(paths)
    assert {"name", "loop.seed", "selector.reward.unlabeled", "augment.strong.hue_turns"} <= set(paths)
    assert field_value(RunConfig(), "selector.reward.unlabeled") == RunConfig().selector.reward.unlabeled


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data.labeled_frac", "0 < x <= 1"),
        ("selector.threshold", "0.5 < x < 1"),
        ("loop.rounds", "1 <= x"),
        ("loop.autocast", "true, false"),
        ("prior.proposal", "box, polygon, sam"),
        ("prior.model", ""),
    ],
)
def test_ranges_for_people(path: str, expected: str) -> None:
    (field,) = (field for field in FIELDS if field.path == path)
    assert range_text(field.info) == expected


def test_prior_actors_have_threads_of_their_own() -> None:
    cluster = lavt_like_config().cluster
    assert (cluster.threads_per_prior, cluster.threads_per_labeler) == (2, 2)
