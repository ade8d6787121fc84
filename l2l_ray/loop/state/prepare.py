"""Before the first step: which examples there are, and which of them are labeled.

The driver does this once and writes one Parquet file per set of examples; every other process reads those. The
unlabeled set is written from expressions and image sizes alone: no mask, box, area or category of an unlabeled item
gets into it. Where the data set has no val split, masks of a share of the labeled images become val: from then on
nothing but evaluation sees these.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from l2l_ray.config import EMBEDDED, DataConfig, RunConfig
from l2l_ray.data.images import ImageStore
from l2l_ray.data.layout import PROBLEMS_FILE
from l2l_ray.data.splits import BEGIN_AGAIN
from l2l_ray.errors import DataError, L2LError, run_remedy
from l2l_ray.files import replacing
from l2l_ray.jsonl import read_lines
from l2l_ray.loop.state.candidates import (
    EVAL_SPLITS,
    STAYS_UNLABELED,
    Candidates,
    find_candidates,
    open_dataset,
)
from l2l_ray.loop.state.data_record import DataRecord
from l2l_ray.loop.state.digests import Digests
from l2l_ray.loop.state.enough import candidates_of, hold_out_val, not_reviewed, num_images, num_labeled_needed
from l2l_ray.loop.state.example_files import ExampleTable, read_examples, write_examples
from l2l_ray.loop.state.ledger import num_shards
from l2l_ray.loop.state.plan import VAL, Plan
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.selector.registry import spec_of
from l2l_ray.storage import at_home, place
from l2l_ray.types import Example, LabeledExample, Skip
from l2l_ray.wording import counted, first_of, photo_name, photo_names

if TYPE_CHECKING:
    from l2l_ray.segmenter.text import TextTokenizer

logger = logging.getLogger(__name__)

_MADE_HERE = ("examples/", "data.json", "skips.jsonl")  # of the files of a run
ValSource = Literal["split", "labeled"]  # val is a split of the data set, or was held out of its labeled images

E = TypeVar("E", bound=Example)


@dataclass(frozen=True)
class Facts:
    """What was decided when the example sets were made.

    `labeled_frac` is the share of train images that are labeled, those held out among them. `val_source` is None where
    there is no val. `notices` are sentences that a person should read before the run begins.

    Example: `Facts(0.2, "labeled", ("...",))`
    """

    labeled_frac: float
    val_source: ValSource | None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunData:
    """What the run works on.

    Example: `prepare(config, run).num_shards(config)`
    """

    labeled: list[LabeledExample]
    unlabeled: Sequence[Example]
    splits: dict[str, list[LabeledExample]]
    facts: Facts = Facts(1.0, None)

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


def missing_splits(splits: Container[str]) -> tuple[str, ...]:
    """Return the usual evaluation splits that are not among some; beside val, one `test` split is enough."""
    usual = ("val", "test") if "test" in splits else ("val", "testA", "testB")
    return tuple(split for split in usual if split not in splits)


EVAL_CHUNK = 512  # sentences per evaluation item: seconds of work at the tiny size, a minute at full size


def prepare(config: RunConfig, run: RunFolder) -> RunData:
    """Find the example sets of a run and begin its folder, or read them back.

    When the data or a setting is refused, nothing has been written: the same name may start with better ones.

    Raises:
        DataError: The data set cannot be read or has changed since the run began, or too few labeled images are usable.
        ConfigError: The share of labeled images cannot be had, there is no segmenter as the config says, or nothing can
            be written in the run's place.
    """
    before = Digests.load(run.path).last
    lost = [name for name in before if name.startswith(_MADE_HERE) and not (run.path / name).exists()]
    require_same_data(config, run)
    if run.examples_path("labeled").exists() and (run.path / "skips.jsonl").exists() and not lost:
        return _read(run)
    # Transformers come here: whoever only reads a run needs none of it.
    from l2l_ray.segmenter.adapters import require_buildable
    from l2l_ray.segmenter.text import TextTokenizer

    require_buildable(config.segmenter)  # before the language model is asked for hours
    candidates = candidates_of(config)
    data, skips = _usable(config, run.methods, candidates)
    skips += _cut_tokens(TextTokenizer(config.segmenter), data)
    record = DataRecord() if config.data.root == EMBEDDED else candidates.record(DataRecord())
    run.create()
    if not lost:
        _keep_what_was_decided(run, data.facts, record, skips)
    for name in reversed(data.prior_order):  # "labeled" last: it marks the set as complete
        path = run.examples_path(name)
        if not path.exists():
            relative = path.relative_to(run.path).as_posix()
            write_examples(path, data.examples(name), config.loop.shard_size, before.get(relative))
            run.promise(path)
    _keep_what_was_decided(run, data.facts, record, skips)  # after the tables, where these could not be made again
    return replace(data, unlabeled=ExampleTable(run.examples_path("unlabeled")))


def _keep_what_was_decided(run: RunFolder, facts: Facts, record: DataRecord, skips: Sequence[Skip]) -> None:
    """Write what is not there yet beside the tables."""
    if not (run.path / "skips.jsonl").exists():
        run.save_skips(skips)
    if not run.data_path.exists():
        _save(run, facts, record)


def require_same_data(config: RunConfig, run: RunFolder) -> None:
    """Refuse to go on with a run, or to call it done, when its data are no longer those it began with.

    Data that cannot be read at all are not compared: what a run needs of them, but for the pictures, is in its folder.

    Raises:
        DataError: Texts, masks or pictures were added, removed or changed; the message says how many.
    """
    saved = DataRecord.load(run.data_path)
    if saved is None or config.data.root == EMBEDDED:
        return
    try:
        dataset = open_dataset(config)
    except DataError as error:
        logger.warning("the data of %s cannot be read to see whether they changed: %s", run.path, error)
        return
    try:
        changes = saved.changes(find_candidates(config, dataset).record(saved))
    except L2LError as error:
        changes = [str(error)]
    if changes:
        raise DataError(
            f"the data have changed since the run in {run.path} began: {', '.join(changes)}; a run keeps to the data "
            "it began with, so start one under another --name"
        )


def read_facts(run: RunFolder) -> Facts:
    """Read what was decided about a run's data; where an older run does not say, what its config and files say."""
    try:
        content = json.loads(run.data_path.read_text())
        return Facts(content["labeled_frac"], content["val_source"], tuple(content["notices"]))
    except (OSError, ValueError, KeyError, TypeError):
        data = run.config.data
        frac = data.benchmark_frac if data.labeled_frac is None else data.labeled_frac
        return Facts(frac, "split" if run.examples_path(VAL).exists() else None)


def _usable(config: RunConfig, methods: Sequence[str], found: Candidates) -> tuple[RunData, list[Skip]]:
    """Return the items whose pictures are usable, val among them if any can be had, and what is left out."""
    images = ImageStore(config.segmenter.image_size, config.data.image_cache_mb)
    skips = list(found.skips)

    def checked(examples: list[E]) -> list[E]:
        kept, more = images.check(_by_photo(examples))
        skips.extend(more)
        return kept

    labeled, unlabeled = checked(found.labeled), checked(found.unlabeled)
    splits = {split: kept for split, examples in found.splits.items() if (kept := checked(examples))}
    images.close()
    if not labeled:
        why = _reasons(skips, config.data.dataset)
        raise DataError(f"no mask of a train image can be used: {why}; correct these, then {BEGIN_AGAIN}")
    learners = [method for method in methods if spec_of(method).learns]
    num_needed = num_labeled_needed(methods)
    if num_images(labeled) < num_needed:
        more = "raise --data.labeled_frac" if found.hidden else "add a mask to another photo"
        name = photo_name(labeled[0].image_path, config.data.dataset)
        raise DataError(
            f"{', '.join(learners)} needs masks on at least 2 train photos, to learn from one what it does on the "
            f"other; got 1, {name}; {more}, or choose a fixed rule by --selector.name "
            "fixed_threshold"
        )
    trained_on = {example.image_path for example in (*labeled, *unlabeled)}
    notices = [
        *_about_import(config),
        *_about_masks(found, config.data),
        *_about_leaks(trained_on, splits, config.data.dataset),
    ]
    val_source: ValSource | None = "split"
    if VAL not in splits:
        num_labeled, num_own = num_images(labeled), num_images(not_reviewed(labeled))
        labeled, val = hold_out_val(config, replace(found, labeled=labeled))
        held_out = {example.image_id for example in val}
        seen = sum(example.image_id in held_out for example in (*labeled, *unlabeled))
        share = config.data.val_from_labeled
        notices.append(_about_val(num_labeled, num_own, len(held_out), share, seen))
        splits, val_source = ({VAL: val, **splits}, "labeled") if val else (splits, None)
    if learners and config.selector.num_folds > num_images(labeled):
        notices.append(
            f"selector.num_folds is {config.selector.num_folds}, and there are {num_images(labeled)} photos to learn "
            "from: each is a part of its own"
        )
    return RunData(labeled, unlabeled, splits, Facts(found.labeled_frac, val_source, tuple(notices))), skips


def _by_photo(examples: list[E]) -> list[E]:
    """Return the rows of each photo side by side, in order of its first: what a photo is needed for is done together.

    Otherwise the backbone would see a photo, and the teacher its other texts, anew for each.
    """
    first = {example.image_path: place for place, example in reversed([*enumerate(examples)])}
    return sorted(examples, key=lambda example: first[example.image_path])


def _cut_tokens(tokenizer: TextTokenizer, data: RunData) -> Iterator[Skip]:
    """Yield a notice for each text that the segmenter does not read to its end: two texts may be one to it."""
    most = tokenizer.max_text_tokens
    for name in data.prior_order:
        rows = data.examples(name)
        for row, num in zip(rows, tokenizer.num_tokens([row.expression for row in rows]), strict=True):
            if num > most:
                reason = f"{num} tokens, cut to segmenter.max_text_tokens={most} for the segmenter; the item stays"
                yield Skip("long_expression_tokens", row.sent_id, row.image_path, reason)


def unused_texts(config: RunConfig, run: RunFolder) -> list[Example]:
    """Return the texts of unlabeled objects that the run left out: it uses `loop.expressions_per_ref` of each.

    Raises:
        DataError: The data set is not there any more.
    """
    used = read_examples(run.examples_path("unlabeled"))
    sent_ids, ref_ids = ({row.sent_id for row in used}, {row.ref_id for row in used})
    found, _ = open_dataset(config).examples("train", max_words=config.data.max_words)
    return [example for example in found if example.ref_id in ref_ids and example.sent_id not in sent_ids]


def _about_import(config: RunConfig) -> list[str]:
    """Say what an import of the data set named as wrong: a run does not see what is not there."""
    data = config.data
    path = at_home(place(data.root)) / data.dataset / PROBLEMS_FILE
    try:
        lines = [line.decode(errors="backslashreplace") for line in read_lines(path)]
    except OSError:
        return []
    return (
        [f"the import of these data named {counted(len(lines), 'problem')}, all in {path}: {lines[0]}"] if lines else []
    )


def _about_masks(found: Candidates, data: DataConfig) -> list[str]:
    told = []
    if found.is_benchmark:
        before = "" if data.split_file is None else "without data.split_file "
        whole = "them all" if found.most_frac == 1 else "all of which every text has one"
        way_out = f"{before}--data.labeled_frac {found.most_frac:g} uses {whole}, as this is a benchmark"
    else:
        given = [f"data.{name}" for name in ("split_file", "labeled_frac") if getattr(data, name) is not None]
        way_out = f"leave {' and '.join(given)} out to use every mask"
    if found.hidden:
        told.append(f"the masks of {counted(found.hidden, 'photo')} are there but not used for training; {way_out}")
    if found.without_mask:
        told.append(
            f"{counted(len(found.without_mask), 'text')} of labeled photos without a mask: unlabeled "
            f"({photo_names(found.without_mask, data.dataset)})"
        )
    return told


def _about_leaks(trained_on: set[str], splits: Mapping[str, Sequence[LabeledExample]], dataset: str) -> list[str]:
    """Say which evaluation splits have photos that training sees, as REFER's google split has by design."""
    told = []
    for split, examples in splits.items():
        if both := sorted({example.image_path for example in examples} & trained_on):
            told.append(
                f"training sees {counted(len(both), 'photo')} of {split}, too ({photo_names(both, dataset)}): figures "
                "on it are too kind; `l2l data leaks --drop NAME` writes the data without them"
            )
    return told


def _about_val(num_labeled: int, num_own: int, num_held_out: int, share: float, num_seen: int) -> str:
    if num_held_out:
        seen = f" (training sees these photos too, by {counted(num_seen, 'other text')} of them)" if num_seen else ""
        return (
            f"there is no val split, so the run holds out {num_held_out} of its {num_labeled} labeled photos{seen}, to "
            "measure how good its masks are and choose its best version; --data.val_from_labeled 0 learns from them too"
        )
    beside = " beside those with reviewed labels" if num_own < num_labeled else ""
    too_few = f"{counted(num_own, 'labeled photo')}{beside} {'is' if num_own == 1 else 'are'} too few to spare one"
    why = "--data.val_from_labeled is 0" if share == 0 else too_few
    return f"there is no val split, and {why}: the last version is taken, and how good it is is not measured"


def _reasons(skips: Sequence[Skip], dataset: str) -> str:
    told = (f"{photo_name(skip.path, dataset)}: {skip.reason.removesuffix(STAYS_UNLABELED)}" for skip in skips)
    return first_of(told, "; ")


def _save(run: RunFolder, facts: Facts, record: DataRecord) -> None:
    try:
        with replacing(run.data_path, durable=True) as temporary:
            temporary.write_text(json.dumps(asdict(facts) | asdict(record)))
        run.promise(run.data_path)
    except OSError as error:
        raise DataError(f"cannot write {run.data_path}: {error}; {run_remedy(error)}") from error


def _read(run: RunFolder) -> RunData:
    def labeled(name: str) -> list[LabeledExample]:
        return [row for row in ExampleTable(run.examples_path(name)) if isinstance(row, LabeledExample)]

    splits = {split: labeled(split) for split in EVAL_SPLITS if run.examples_path(split).exists()}
    return RunData(labeled("labeled"), ExampleTable(run.examples_path("unlabeled")), splits, read_facts(run))
