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
    return num_images(found.splits[VAL] if VAL in found.splits else hold_out_val(config, found)[1])


def training_labeled(config: RunConfig, found: Candidates) -> list[LabeledExample]:
    """Return the labeled items without those that become val where the data set has none."""
    return found.labeled if VAL in found.splits else hold_out_val(config, found)[0]


def not_reviewed(labeled: list[LabeledExample]) -> list[LabeledExample]:
    """Return the labeled items whose masks did not begin as labels; all, where every mask did."""
    return [example for example in labeled if not example.is_reviewed] or labeled


def hold_out_val(config: RunConfig, found: Candidates) -> tuple[list[LabeledExample], list[LabeledExample]]:
    """Return the labeled items to learn from, and those held out as val; images whose other texts train come last.

    Masks that began as labels are never val, where there are others: they flatter the model they come from, and val
    stays what it was when such masks are added.
    """
    own = not_reviewed(found.labeled)
    image_ids = list(dict.fromkeys(example.image_id for example in own))
    needed = num_labeled_needed((*config.compare, config.selector.name))
    seed, share = config.data.split_seed, config.data.val_from_labeled
    held_out = set(hold_out(image_ids, share, needed, seed, found.partly_labeled)[1])
    val = [example for example in own if example.image_id in held_out]
    in_val = {example.sent_id for example in val}
    return [example for example in found.labeled if example.sent_id not in in_val], val
