"""Labeled images of a whole run, as a selector in training sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from l2l_ray.data.splits import folds
from l2l_ray.loop.inference.inputs import ExampleSet, ExampleSets
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.training.selector_training import CrossFitted


@pytest.fixture(scope="module")
def sets(whole_run: RunFolder) -> ExampleSets:
    return ExampleSets(whole_run.config, whole_run, whole_run.priors_path)


@pytest.fixture(scope="module")
def labeled(sets: ExampleSets) -> ExampleSet:
    return sets["labeled"]


@pytest.fixture(scope="module")
def burn_in(whole_run: RunFolder) -> Path:
    (folder,) = (whole_run.config.cache_dir / "burn_in").iterdir()
    return folder


@pytest.fixture(scope="module")
def fold_rows(whole_run: RunFolder, labeled: ExampleSet) -> list[list[int]]:
    image_ids = list(dict.fromkeys(example.image_id for example in labeled.examples))
    parts = folds(image_ids, whole_run.config.selector.num_folds, whole_run.config.data.split_seed)
    return [[row for row, e in enumerate(labeled.examples) if e.image_id in part] for part in parts]


@pytest.fixture(scope="module")
def cross_fitted(whole_run: RunFolder, labeled: ExampleSet, burn_in: Path, fold_rows: list[list[int]]) -> CrossFitted:
    teachers = [burn_in / f"fold{number}" for number in range(len(fold_rows))]
    return CrossFitted(whole_run.config, labeled, fold_rows, teachers, torch.device("cpu"))
