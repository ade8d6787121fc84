"""Before the first step: which examples there are, which are labeled, and what the MLLM says about each.

The driver does this once and writes Parquet tables; every other process reads the tables. The unlabeled table is built
from expressions and image sizes alone: no mask, box, area or category of an unlabeled item gets into it.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from PIL import Image

from l2l_ray.config import EMBEDDED, DataConfig, RunConfig
from l2l_ray.data.images import ImageStore
from l2l_ray.data.refer import ReferDataset
from l2l_ray.data.split_files import read_split, require_fraction
from l2l_ray.data.splits import split_labeled
from l2l_ray.errors import DataError, L2LError
from l2l_ray.loop.state.example_files import read_examples, write_examples, write_priors
from l2l_ray.loop.state.ledger import num_shards
from l2l_ray.loop.state.plan import Plan
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.mllm import MllmIdentity, MllmPrior, Reply, make_prior, prior_key
from l2l_ray.prior.store import PriorStore
from l2l_ray.refshapes.synthetic import write_refshapes
from l2l_ray.types import Example, LabeledExample, Skip

logger = logging.getLogger(__name__)

EVAL_SPLITS = ("val", "testA", "testB", "test")
_EXPECTED_SPLITS = ("val", "testA", "testB")


@dataclass(frozen=True)
class Question:
    """One thing to ask the MLLM.

    Example: `Question("9f..", "/data/12.jpg", "left man", 640, 480)`
    """

    key: str
    image_path: str
    expression: str
    width_px: int
    height_px: int


E = TypeVar("E", bound=Example)
Answered = tuple[list[Question], list[Reply]]
Ask = Callable[[Iterator[list[Question]]], Iterator[Answered]]


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
        """Tables in the order in which their priors are needed."""
        return "labeled", "unlabeled", *self.splits

    def examples(self, name: str) -> Sequence[Example]:
        """Return the examples of one table."""
        tables: dict[str, Sequence[Example]] = {"labeled": self.labeled, "unlabeled": self.unlabeled, **self.splits}
        return tables[name]

    def num_shards(self, config: RunConfig) -> int:
        """Return how many labelling shards a round has."""
        return num_shards(len(self.unlabeled), config.loop.shard_size)

    def plan(self, config: RunConfig, methods: Sequence[str]) -> Plan:
        """Return a fresh plan of everything the run has to do."""
        sizes = {split: len(examples) for split, examples in self.splits.items()}
        return Plan(methods, config.loop.rounds, config.loop.lag, self.num_shards(config), sizes, EVAL_CHUNK)


EVAL_CHUNK = 512  # sentences per evaluation item: seconds of work at the tiny size, a minute at full size


def prepare(config: RunConfig, run: RunFolder) -> RunData:
    """Build the tables of a run, or read them back.

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

    tables = RunData(
        labeled=checked(dataset.labeled_examples(labeled_ids, max_words=data.max_words)),
        unlabeled=checked(dataset.examples(unlabeled_ids, config.loop.expressions_per_ref, max_words=data.max_words)),
        splits={
            split: checked(dataset.labeled_examples(split, max_words=data.max_words))
            for split in EVAL_SPLITS
            if split in dataset.splits
        },
    )
    run.save_skips(skips)
    if not tables.labeled:
        raise DataError(
            f"none of the {len(labeled_ids)} labeled images is usable: {_by_kind(skips)}; see {run.path}/skips.jsonl"
        )
    for name in reversed(tables.prior_order):  # "labeled" last: it marks the set as complete
        write_examples(run.examples_path(name), tables.examples(name))
    return tables


def _split(dataset: ReferDataset, data: DataConfig) -> tuple[list[int], list[int]]:
    """Return the labeled and the unlabeled train images, by the split file where there is one."""
    image_ids = dataset.image_ids("train")
    if data.split_file is None:
        return split_labeled(image_ids, data.labeled_frac, data.split_seed)
    labeled, unlabeled = read_split(Path(data.split_file).expanduser(), dataset.digest, image_ids)
    require_fraction(data.labeled_frac, len(labeled), len(image_ids))
    return labeled, unlabeled


def answer_batch(mllm: MllmPrior, questions: Sequence[Question]) -> list[Reply]:
    """Open the images of a batch and ask about them."""
    pictures = [Image.open(q.image_path).convert("RGB") for q in questions]
    return mllm.ask(pictures, [q.expression for q in questions])


def open_store(config: RunConfig) -> PriorStore:
    """Open the prior store that all runs under one root share; only drivers write to it."""
    return PriorStore(config.cache_dir / "priors.sqlite")


def fill_priors(
    name: str, tables: RunData, run: RunFolder, store: PriorStore, mllm: MllmIdentity, ask: Ask, batch_size: int
) -> int:
    """Make sure every example of a table has a prior, asking only what the store does not hold.

    Args:
        name: Table.
        tables: The run's tables.
        run: Where `priors/<name>.parquet` goes.
        store: Shared between runs; each answered batch is stored at once.
        mllm: Fingerprint and format of the model that is asked.
        ask: Maps an iterator of question batches to an iterator of answered batches, in any order.
        batch_size: Questions per batch.
    Returns:
        How many questions were asked.
    """
    target = run.priors_path(name)
    if target.exists():
        return 0
    questions = [_question(example, mllm.fingerprint) for example in tables.examples(name)]
    open_keys = set(store.missing(list(dict.fromkeys(q.key for q in questions))))
    todo = list({q.key: q for q in questions if q.key in open_keys}.values())
    batches = (todo[start : start + batch_size] for start in range(0, len(todo), batch_size))
    for batch, replies in ask(batches):
        store.put_many(
            [make_prior(q.key, r, mllm, q.width_px, q.height_px) for q, r in zip(batch, replies, strict=True)]
        )
    priors = store.get_many(q.key for q in questions)
    pairs = [(e.sent_id, priors[q.key]) for e, q in zip(tables.examples(name), questions, strict=True)]
    failures = Counter(prior.failure.split(":")[0] for _, prior in pairs if prior.failure)
    run.log_event({"event": "priors", "table": name, "num": len(pairs), "asked": len(todo), "failures": dict(failures)})
    write_priors(target, pairs)  # after the event: a process killed in between logs again, and nothing is lost
    if failures:
        logger.warning("%s: %d of %d replies gave no prior: %s", name, failures.total(), len(pairs), dict(failures))
    return len(todo)


def open_dataset(config: RunConfig) -> ReferDataset:
    """Open the run's data set, making the embedded benchmark where it is asked for."""
    data = config.data
    cache_dir = config.cache_dir / "refer"
    return ReferDataset.open(data_root(config), data.dataset, data.split_by, data.mask_rule, cache_dir)


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


@cache
def _image_sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _question(example: Example, fingerprint: str) -> Question:
    key = prior_key(fingerprint, _image_sha256(example.image_path), example.expression)
    return Question(key, example.image_path, example.expression, example.width_px, example.height_px)


def _by_kind(skips: Sequence[Skip]) -> dict[str, int]:
    return dict(Counter(skip.kind for skip in skips))
