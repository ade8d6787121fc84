"""Which items of a data set a run would work on, by what the data set says: no picture is opened here.

Train images are labeled or not. On a labeled image, a ref with a usable mask is a labeled item; a ref without one, or
with a bad one, is an unlabeled item like those of all other images. Which images are labeled:
- those of `data.split_file`, where there is one;
- the share `data.labeled_frac`, drawn from the images whose refs all have truth;
- where neither is given, every image of which any ref has truth. Only a benchmark (a published data set, RefShapes)
  keeps most of it hidden, whatever of its truth is lacking: there the share `data.benchmark_frac` is labeled in the
  same way, but for one that has truth on no more images than that: it hides nothing, and all of these are labeled.

Truth is looked at for labeled images and evaluation splits alone; of the others it is asked only whether there is any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from l2l_ray.config import EMBEDDED, DataConfig, RunConfig
from l2l_ray.data.refer import ReferDataset
from l2l_ray.data.split_files import plain_fraction, read_split, require_fraction
from l2l_ray.data.splits import NO_MASK, count_of, split_labeled
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.loop.state.data_record import DataRecord
from l2l_ray.refshapes.synthetic import write_refshapes
from l2l_ray.storage import at_home, place
from l2l_ray.types import Example, LabeledExample, Skip

EVAL_SPLITS = ("val", "testA", "testB", "testC", "test")

STAYS_UNLABELED = "; the item is unlabeled"  # ends the reason of a notice about a bad mask

# Why a ref has no usable truth; on a train image, its item is then unlabeled.
_NO_MASK = "missing_mask"
_BAD_MASKS = ("invalid_mask", "mask_outside_image", "empty_mask")


@dataclass(frozen=True)
class Candidates:
    """The items of a run before pictures are looked at and val is held out.

    Example: `find_candidates(config, open_dataset(config)).labeled`
    """

    labeled: list[LabeledExample]
    unlabeled: list[Example]
    splits: dict[str, list[LabeledExample]]
    labeled_frac: float
    skips: list[Skip]
    hidden: int = 0  # train images whose masks are on disk and, as in a benchmark, not used
    is_benchmark: bool = False  # where nobody says how many are labeled, that is `data.benchmark_frac`
    most_frac: float = 1.0  # the largest `data.labeled_frac` that can be had
    without_mask: tuple[str, ...] = ()  # pictures of texts without a mask on labeled images, one for each such text
    partly_labeled: frozenset[int] = frozenset()  # labeled images with texts that have no mask but a reviewed one

    def record(self, known: DataRecord) -> DataRecord:
        """Return what tells these data from others; pictures that `known` has are not read again."""
        return DataRecord.of([*self.labeled, *self.unlabeled], self.splits, known)


def open_dataset(config: RunConfig) -> ReferDataset:
    """Open the run's data set, making the embedded benchmark where it is asked for.

    Raises:
        DataError: It cannot be read, or not be made.
    """
    data = config.data
    cache_dir = config.scratch_dir / "refer"
    return ReferDataset.open(data_root(config), data.dataset, data.split_by, data.mask_rule, cache_dir)


def data_root(config: RunConfig) -> Path:
    """Return the REFER folder, making the embedded benchmark where it is asked for.

    Raises:
        DataError: It cannot be made.
    """
    data = config.data
    if data.root != EMBEDDED:
        return at_home(place(data.root)).absolute()  # of the pictures, which other processes open
    name = f"{data.dataset}-{data.num_train_refs}-{data.num_eval_refs}-s{data.data_seed}"
    root = config.cache_dir / "data" / name
    try:
        write_refshapes(root, data.dataset, data.data_seed, data.num_train_refs, data.num_eval_refs)
    except OSError as error:
        raise DataError(
            f"cannot write RefShapes to {root}: {error}; choose another --run_root, or free some space"
        ) from error
    return root


def find_candidates(config: RunConfig, dataset: ReferDataset) -> Candidates:
    """Return the items of a run.

    Raises:
        DataError: There is no train split, no train image has a mask, or the split file does not fit.
        ConfigError: The share of labeled images cannot be had, or contradicts the split file.
    """
    data = config.data
    if "train" not in dataset.splits:
        raise DataError(f"{data.dataset} has no train split, only {dataset.splits}; choose another --data.split_by")
    whole, some = dataset.images_with_truth("train")
    if not some:
        raise DataError(NO_MASK)
    labeled_ids, unlabeled_ids, frac = _split(dataset, data, whole, some)
    labeled, skips = dataset.labeled_examples(labeled_ids, max_words=data.max_words)
    known_refs = {example.ref_id for example in labeled}
    per_ref = config.loop.expressions_per_ref
    unlabeled, more = dataset.examples(unlabeled_ids, per_ref, data.max_words)
    beside, others = dataset.examples(labeled_ids, per_ref, data.max_words)
    others_here = [example for example in beside if example.ref_id not in known_refs]
    splits: dict[str, list[LabeledExample]] = {}
    left_out = [*more, *others]
    for split in EVAL_SPLITS:
        if split in dataset.splits:
            splits[split], found = dataset.labeled_examples(split, max_words=data.max_words)
            left_out += found
    return Candidates(
        labeled=labeled,
        unlabeled=unlabeled + others_here,
        splits={split: examples for split, examples in splits.items() if examples},
        labeled_frac=frac,
        skips=_each_once([*_unlabeled_instead(skips), *left_out]),
        hidden=len(some.intersection(unlabeled_ids)),
        is_benchmark=dataset.is_benchmark,
        most_frac=plain_fraction(len(whole), len(dataset.image_ids("train"))) if whole else 0.0,
        without_mask=tuple(skip.path for skip in skips if skip.kind == _NO_MASK),
        partly_labeled=frozenset(dataset.partly_labeled(labeled_ids)) | {row.image_id for row in others_here},
    )


def _split(
    dataset: ReferDataset, data: DataConfig, whole: set[int], some: set[int]
) -> tuple[list[int], list[int], float]:
    """Return the labeled and the unlabeled train images, and which share of them is labeled."""
    image_ids = dataset.image_ids("train")
    if data.split_file is not None:
        labeled, unlabeled = read_split(at_home(place(data.split_file)), dataset.digest, image_ids)
        if data.labeled_frac is not None:
            require_fraction(data.labeled_frac, len(labeled), len(image_ids))
        return labeled, unlabeled, plain_fraction(len(labeled), len(image_ids))
    frac = data.labeled_frac
    if frac is None and dataset.is_benchmark:
        frac = data.benchmark_frac
        if frac * len(image_ids) < 1:
            raise ConfigError(
                f"{len(some)} of {len(image_ids)} train images have masks, and {frac:g} of all, a benchmark's labeled "
                "share, is less than one; say how many to learn from: --data.labeled_frac 1 uses every mask of a "
                "benchmark that lacks none"
            )
        frac = None if len(some) <= count_of(frac, len(image_ids)) else frac
    if frac is not None:
        return *split_labeled(image_ids, frac, data.split_seed, whole), frac
    labeled, unlabeled = ([i for i in image_ids if (i in some) is wanted] for wanted in (True, False))
    return labeled, unlabeled, plain_fraction(len(labeled), len(image_ids))


def _unlabeled_instead(skips: Iterable[Skip]) -> Iterable[Skip]:
    """Yield the skips of labeled images; those for want of a mask become notices: the item goes on as an unlabeled one.

    That some texts of a labeled image have no mask at all is no fault, and is counted elsewhere.
    """
    for skip in skips:
        if skip.kind in _BAD_MASKS:
            yield Skip(f"{skip.kind}_unlabeled", skip.sent_id, skip.path, f"{skip.reason}{STAYS_UNLABELED}")
        elif skip.kind != _NO_MASK:
            yield skip


def _each_once(skips: Iterable[Skip]) -> list[Skip]:
    return list({(skip.kind, skip.sent_id): skip for skip in skips}.values())
