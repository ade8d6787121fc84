"""Whether a run would have enough to work with, told from what the data set says: no picture is opened here."""

from __future__ import annotations

from collections.abc import Sequence

from l2l_ray.config import RunConfig
from l2l_ray.data.splits import hold_out
from l2l_ray.loop.state.candidates import Candidates, find_candidates, open_dataset
from l2l_ray.loop.state.plan import VAL
from l2l_ray.selector.registry import spec_of
from l2l_ray.types import Example, LabeledExample


def candidates_of(config: RunConfig) -> Candidates:
    """Return the items a run with this config would work on; errors as in `candidates.find_candidates`."""
    return find_candidates(config, open_dataset(config))


def num_images(examples: Sequence[Example]) -> int:
    """Return of how many images there are examples."""
    return len({example.image_id for example in examples})


def num_labeled_needed(methods: Sequence[str]) -> int:
    """Return the least number of labeled images: a learner is rewarded on images its teacher was not trained on."""
    return 2 if any(spec_of(method).learns for method in methods) else 1


def num_val_images(config: RunConfig, found: Candidates) -> int:
    """Return how many images val would have, of the data set's own split or held out of the labeled ones."""
    return num_images(found.splits[VAL]) if VAL in found.splits else len(_held_out(config, found))


def training_labeled(config: RunConfig, found: Candidates) -> list[LabeledExample]:
    """Return the labeled items without those that become val where the data set has none."""
    held_out = set() if VAL in found.splits else _held_out(config, found)
    return [example for example in found.labeled if example.image_id not in held_out]


def _held_out(config: RunConfig, found: Candidates) -> set[int]:
    image_ids = list(dict.fromkeys(example.image_id for example in found.labeled))
    needed = num_labeled_needed((*config.compare, config.selector.name))
    shared = {example.image_id for example in found.unlabeled}  # held out last, as in `prepare`
    return set(hold_out(image_ids, config.data.val_from_labeled, needed, config.data.split_seed, shared)[1])
