"""Before the first step: which examples there are, and which of them are labeled.

The driver does this once and writes one Parquet file per set of examples; every other process reads those. The
unlabeled set is written from expressions and image sizes alone: no mask, box, area or category of an unlabeled item
gets into it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from l2l_ray.config import EMBEDDED, DataConfig, RunConfig
from l2l_ray.data.images import ImageStore
from l2l_ray.data.refer import ReferDataset
from l2l_ray.data.split_files import read_split, require_fraction
from l2l_ray.data.splits import split_labeled
from l2l_ray.errors import DataError, L2LError
from l2l_ray.loop.state.example_files import read_examples, write_examples
from l2l_ray.loop.state.ledger import num_shards
from l2l_ray.loop.state.plan import Plan
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.refshapes.synthetic import write_refshapes
from l2l_ray.types import Example, LabeledExample, Skip

logger = logging.getLogger(__name__)

EVAL_SPLITS = ("val", "testA", "testB", "test")
_EXPECTED_SPLITS = ("val", "testA", "testB")


E = TypeVar("E", bound=Example)


@dataclass(frozen=True)
class RunData:
    """What the run works on.

    Example: `prepare(config, run).num_shards(config)`
    """

    labeled: list[LabeledExample]
    unlabeled: list[Example]
    splits: dict[str, list[LabeledExample]]

    @property
    def missing_splits(self) -> tuple[str, ...]:
        """Usual evaluation splits this data set does not have; a set with one `test` split lacks nothing."""
        usual = ("val", "test") if "test" in self.splits else _EXPECTED_SPLITS
        return tuple(split for split in usual if split not in self.splits)

    @property
    def prior_order(self) -> tuple[str, ...]:
        """The example sets in the order in which their priors are needed."""
        return "labeled", "unlabeled", *self.splits

    def examples(self, name: str) -> Sequence[Example]:
        """Return the examples of one set."""
        sets: dict[str, Sequence[Example]] = {"labeled": self.labeled, "unlabeled": self.unlabeled, **self.splits}
        return sets[name]

    def num_shards(self, config: RunConfig) -> int:
        """Return how many labelling shards a round has."""
        return num_shards(len(self.unlabeled), config.loop.shard_size)

    def plan(self, config: RunConfig, methods: Sequence[str]) -> Plan:
        """Return a fresh plan of everything the run has to do."""
        sizes = {split: len(examples) for split, examples in self.splits.items()}
        return Plan(methods, config.loop.rounds, config.loop.lag, self.num_shards(config), sizes, EVAL_CHUNK)


EVAL_CHUNK = 512  # sentences per evaluation item: seconds of work at the tiny size, a minute at full size


def prepare(config: RunConfig, run: RunFolder) -> RunData:
    """Find the example sets of a run, or read them back.

    When it fails, nothing has been done that settings could contradict: the same folder may start with better ones.

    Raises:
        DataError: The data set cannot be read, or no labeled example is left.
        ConfigError: The label fraction gives no labeled image.
    """
    if run.examples_path("labeled").exists() and (run.path / "skips.jsonl").exists():
        return _read(run)
    try:
        return _build(config, run)
    except L2LError:
        run.forget_config()
        raise


def _build(config: RunConfig, run: RunFolder) -> RunData:
    dataset = open_dataset(config)
    if "train" not in dataset.splits:
        raise DataError(
            f"{config.data.dataset} has no train split, only {dataset.splits}; choose another --data.split_by"
        )
    data = config.data
    labeled_ids, unlabeled_ids = _split(dataset, data)
    images = ImageStore(config.segmenter.image_size, data.image_cache_mb)
    skips: list[Skip] = []

    def checked(found: tuple[list[E], list[Skip]]) -> list[E]:
        kept, more = images.check(found[0])
        skips.extend((*found[1], *more))
        return kept

    found = RunData(
        labeled=checked(dataset.labeled_examples(labeled_ids, max_words=data.max_words)),
        unlabeled=checked(dataset.examples(unlabeled_ids, config.loop.expressions_per_ref, max_words=data.max_words)),
        splits={
            split: checked(dataset.labeled_examples(split, max_words=data.max_words))
            for split in EVAL_SPLITS
            if split in dataset.splits
        },
    )
    run.save_skips(skips)
    if not found.labeled:
        raise DataError(
            f"none of the {len(labeled_ids)} labeled images is usable: {_by_kind(skips)}; see {run.path}/skips.jsonl"
        )
    for name in reversed(found.prior_order):  # "labeled" last: it marks the set as complete
        write_examples(run.examples_path(name), found.examples(name))
    return found


def _split(dataset: ReferDataset, data: DataConfig) -> tuple[list[int], list[int]]:
    """Return the labeled and the unlabeled train images, by the split file where there is one."""
    image_ids = dataset.image_ids("train")
    if data.split_file is None:
        return split_labeled(image_ids, data.labeled_frac, data.split_seed)
    labeled, unlabeled = read_split(Path(data.split_file).expanduser(), dataset.digest, image_ids)
    require_fraction(data.labeled_frac, len(labeled), len(image_ids))
    return labeled, unlabeled


def open_dataset(config: RunConfig) -> ReferDataset:
    """Open the run's data set, making the embedded benchmark where it is asked for."""
    data = config.data
    cache_dir = config.cache_dir / "refer"
    return ReferDataset.open(data_root(config), data.dataset, data.split_by, data.mask_rule, cache_dir)


def unused_texts(config: RunConfig, run: RunFolder) -> list[Example]:
    """Return the texts of unlabeled objects that the run left out: it uses `loop.expressions_per_ref` of each.

    Raises:
        DataError: The data set is not there any more.
    """
    used = read_examples(run.examples_path("unlabeled"))
    sent_ids, ref_ids = ({row.sent_id for row in used}, {row.ref_id for row in used})
    found, _ = open_dataset(config).examples("train", max_words=config.data.max_words)
    return [example for example in found if example.ref_id in ref_ids and example.sent_id not in sent_ids]


def data_root(config: RunConfig) -> Path:
    """Return the REFER folder, making the embedded benchmark where it is asked for."""
    data = config.data
    if data.root != EMBEDDED:
        return Path(data.root).expanduser()
    name = f"{data.dataset}-{data.num_train_refs}-{data.num_eval_refs}-s{data.data_seed}"
    root = config.cache_dir / "data" / name
    write_refshapes(root, data.dataset, data.data_seed, data.num_train_refs, data.num_eval_refs)
    return root


def _read(run: RunFolder) -> RunData:
    def rows(name: str) -> list[Example]:
        return read_examples(run.examples_path(name))

    def labeled(name: str) -> list[LabeledExample]:
        return [row for row in rows(name) if isinstance(row, LabeledExample)]

    splits = {split: labeled(split) for split in EVAL_SPLITS if run.examples_path(split).exists()}
    return RunData(labeled("labeled"), rows("unlabeled"), splits)


def _by_kind(skips: Sequence[Skip]) -> dict[str, int]:
    return dict(Counter(skip.kind for skip in skips))
