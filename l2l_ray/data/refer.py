"""RefCOCO-family data sets in the REFER layout.

The layout: `<root>/<dataset>/refs(<split_by>).p`, `<root>/<dataset>/instances.json` and `<root>/images/...`.

Unlabeled items come from `examples`: it uses refs and the table of images and nothing else, so it works, with identical
results, when `instances.json` has annotations without segmentation, bbox, area and category_id, or has no annotations
at all. Truth is in a file of its own (`refer_cache.py`), which `examples` never opens: `labeled_examples` reads masks
there, and `images_with_truth` and `partly_labeled`, which every run asks, whether there are any. `digest` leaves truth
out too, so deleting hidden truth does not change a run's identity.

A ref refers to one object (`ann_id`), or, in gRefCOCO's way, to any number of them (`ann_ids`): its mask is the union
of theirs, its category the one they share, else "". An empty list says that the image does not show what is spoken of:
then the mask has no pixel, and that is no fault.

Choices and departures from the REFER API (github.com/lichengunc/refer):
- A split is matched exactly. REFER's `testA` also matches `testAB`, its `test` every test split.
- Image ids given instead of a split are looked up within one split (train, unless said otherwise): in RefCOCOg (google)
  train and val share images, and the val refs of a train image must not be trained on.
- The expression is REFER's cleaned `sent` (`raw` where there is none), with white space collapsed.
- The image file comes from the image table; a ref's own `file_name` carries an annotation suffix and is ignored.
- Masks of several parts are united; `mask_rule="lavt"` gives the masks that LAVT and SemiRES make instead.
- A ref may be `rejected` (datatools/review.py): its sentences are then no unlabeled items, and are named.
- A ref may carry a `hint`, where the user says the object is (hints.py); published sets have none.
- Where sizes are null, the image header is read. Sizes are those of the stored pixels, before any EXIF rotation, as the
  masks are.

What cannot be used is left out by name, one `Skip` per sentence: `empty_expression`, `missing_image` (not in the table,
or needed for its size and not there), `truncated_image` (needed for its size and not readable), `rejected_label` (by a
reviewer), `missing_mask` (no segmentation), `invalid_mask` (malformed, or of another image), `mask_outside_image`,
`empty_mask`.
`long_expression_cut` and `invalid_hint` are notices: the item stays, cut to `max_words`, or without its hint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from l2l_ray.data.hints import read_hint
from l2l_ray.data.layout import SPLITS, BadValue, image_folder
from l2l_ray.data.masks import MaskRule
from l2l_ray.data.object_masks import annotation_mask, object_mask, require_segmentation
from l2l_ray.data.origin import is_published, published_splits
from l2l_ray.data.pixels import BadPicture, read_header
from l2l_ray.data.refer_cache import ReferCache
from l2l_ray.data.refer_files import Ref, require_file
from l2l_ray.errors import DataError
from l2l_ray.storage import at_home, place
from l2l_ray.types import Example, Hint, LabeledExample, Rle, Skip

logger = logging.getLogger(__name__)

# What `object_masks` calls a fault, and the kind of skip that it is; any other is an "invalid_mask".
_KINDS = {
    "missing annotation": "missing_mask",
    "missing mask": "missing_mask",
    "mask outside image": "mask_outside_image",
    "empty mask": "empty_mask",
}


_REJECTED = "a reviewer said that the label of an earlier run is wrong, and drew no other mask"


class _Problem(NamedTuple):
    kind: str
    reason: str


class ReferDataset:
    """One data set in one published split.

    Example: `ReferDataset.open(Path("/data/refer"), "refcoco", "unc").examples("val")`
    """

    def __init__(self, root: Path, dataset: str, split_by: str, cache: ReferCache, mask_rule: MaskRule) -> None:
        """Take over parsed parts; use `open`."""
        self.root, self.dataset, self.split_by, self.mask_rule = root, dataset, split_by, mask_rule
        self.is_benchmark = is_published(root / dataset, split_by)  # most of its truth is to be hidden
        self._cache = cache
        self._image_dir = image_folder(root, dataset)
        self._located: dict[int, tuple[str, int, int] | _Problem] = {}

    @classmethod
    def open(
        cls,
        root: Path,
        dataset: str,
        split_by: str,
        mask_rule: MaskRule = "union",
        cache_dir: Path | None = None,
    ) -> ReferDataset:
        """Open a data set: the first time its files are parsed, later the columns made of them are mapped.

        Args:
            root: Folder that holds `<dataset>/` and `images/`.
            dataset: refcoco, refcoco+, refcocog, refclef, refshapes, ...
            split_by: unc, umd, google, berkeley, l2l, ...
            mask_rule: What the parts of an annotation make: their "union", or "lavt", what LAVT and SemiRES make of
                them: the pixels that exactly one part covers.
            cache_dir: Where the columns are kept; None = `$L2L_HOME/cache/refer`, else `~/l2l_runs/cache/refer`. A
                folder that cannot be written costs time, no more.
        Raises:
            DataError: If a file is missing (the message lists what is there), is not what it should be, or ids repeat.
        """
        root = at_home(place(root)).absolute()
        folder = root / dataset
        refs_path, instances_path = folder / f"refs({split_by}).p", folder / "instances.json"
        require_file(refs_path, root, dataset)
        require_file(instances_path, root, dataset)
        opened = cls(root, dataset, split_by, ReferCache(refs_path, instances_path, cache_dir), mask_rule)
        if opened.missing_splits and opened.is_benchmark:
            missing, found = (", ".join(names) for names in (opened.missing_splits, opened.splits))
            logger.warning("%s holds no refs of %s; it has %s", refs_path, missing, found)
        return opened

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that have refs, train first."""
        found = self._cache.refs.splits
        known = [split for split in SPLITS if split in found]
        return (*known, *(split for split in found if split not in known))

    @property
    def missing_splits(self) -> tuple[str, ...]:
        """Splits that this data set should have (as published; train and val for others) and that have no refs here."""
        expected = published_splits(self.dataset, self.split_by) if self.is_benchmark else ("train", "val")
        return tuple(split for split in expected if split not in self.splits)

    @property
    def digest(self) -> str:
        """Hex hash of refs (ids, splits, expressions, hints, rejections), and of their images' rows; no truth."""
        refs = self.refs()
        rows = ((image_id, self._cache.refs.image(image_id)) for image_id in sorted({ref.image_id for ref in refs}))
        images = [(image_id, *row) for image_id, row in rows if row is not None]
        named = [ref[:7] if ref.is_rejected else ref[:6] if ref.hint else ref[:5] for ref in refs]  # most have neither
        content = json.dumps([self.dataset, self.split_by, named, images], separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def refs(self) -> list[Ref]:
        """Return all refs, in file order."""
        return list(self._cache.refs.take())

    def image_ids(self, split: str) -> list[int]:
        """Return the ids of a split's images, in the order in which refs mention them first.

        Raises:
            DataError: If the split has no refs here.
        """
        self._require_split(split)
        return self._cache.refs.image_ids(self._cache.refs.rows(split))

    def images_with_truth(self, split: str) -> tuple[set[int], set[int]]:
        """Return the ids of a split's images of which all refs have truth, and of those of which any ref has.

        Whether the masks are any good is not looked at; `labeled_examples` says so.

        Raises:
            DataError: If the split has no refs here.
        """
        some: set[int] = set()
        lacking: set[int] = set()
        for ref in self._refs_of(split):
            has_truth = all(self._cache.truths.has_segmentation(ann_id) for ann_id in ref.ann_ids)
            (some if has_truth else lacking).add(ref.image_id)
        return some - lacking, some

    def partly_labeled(self, image_ids: Sequence[int]) -> set[int]:
        """Return those train images that have texts without truth, or with truth that began as a model's label."""
        truths = self._cache.truths
        return {
            ref.image_id
            for ref in self._refs_of(image_ids)
            if ref.is_reviewed or not all(truths.has_segmentation(ann_id) for ann_id in ref.ann_ids)
        }

    def examples(
        self,
        which: str | Sequence[int],
        expressions_per_ref: int | None = None,
        max_words: int = 64,
        split: str = "train",
    ) -> tuple[list[Example], list[Skip]]:
        """Return image-expression pairs without truth, and what was left out.

        Args:
            which: A split's name, or ids of images of `split`.
            expressions_per_ref: Use only the first so many usable sentences of each ref, by `sent_id`; None = all.
            max_words: Longer expressions are cut here, with a notice among the skips.
            split: Where image ids are looked up; no effect when `which` is a name.
        Raises:
            DataError: If the split or an image id has no refs here.
        """
        examples: list[Example] = []
        skips: list[Skip] = []
        for ref in self._refs_of(which, split):
            located = self._locate(ref.image_id)
            hint = self._hint(ref, located)
            for sent_id, expression in self._sentences(ref, expressions_per_ref, max_words, skips):
                if ref.is_rejected:
                    skips.append(Skip("rejected_label", sent_id, self._path(ref.image_id), _REJECTED))
                elif isinstance(located, _Problem):
                    skips.append(Skip(located.kind, sent_id, self._path(ref.image_id), located.reason))
                else:
                    placed = self._noted(hint, ref, sent_id, skips)
                    examples.append(Example(sent_id, ref.ref_id, ref.image_id, *located, expression, hint=placed))
        return examples, skips

    def labeled_examples(
        self,
        which: str | Sequence[int],
        expressions_per_ref: int | None = None,
        max_words: int = 64,
        split: str = "train",
    ) -> tuple[list[LabeledExample], list[Skip]]:
        """Return image-expression pairs with their masks, and what was left out; arguments as in `examples`.

        `category` is "" where the annotation has none.
        """
        examples: list[LabeledExample] = []
        skips: list[Skip] = []
        for ref in self._refs_of(which, split):
            located = self._locate(ref.image_id)
            truth, hint = self._truth(ref, located), self._hint(ref, located)
            for sent_id, expression in self._sentences(ref, expressions_per_ref, max_words, skips):
                if isinstance(truth, _Problem):
                    skips.append(Skip(truth.kind, sent_id, self._path(ref.image_id), truth.reason))
                else:
                    assert not isinstance(located, _Problem)  # _truth would have handed it on
                    placed = self._noted(hint, ref, sent_id, skips)
                    ids = sent_id, ref.ref_id, ref.image_id
                    more = *truth, ref.is_reviewed
                    examples.append(LabeledExample(*ids, *located, expression, *more, hint=placed))
        return examples, skips

    def _refs_of(self, which: str | Sequence[int], split: str = "train") -> Iterator[Ref]:
        name = which if isinstance(which, str) else split
        self._require_split(name)
        rows = self._cache.refs.rows(name)
        if not isinstance(which, str):
            if unknown := sorted(set(which) - set(self._cache.refs.image_ids(rows))):
                raise DataError(
                    f"image ids {unknown[:5]} ({len(unknown)} in all) have no refs in split {name!r} of "
                    f"{self.dataset}; take ids from image_ids(split) and pass the same split"
                )
            rows = self._cache.refs.rows(name, which)
        return self._cache.refs.take(rows)

    def _require_split(self, split: str) -> None:
        if split not in self._cache.refs.splits:
            raise DataError(
                f"split {split!r} has no refs in {self.dataset} ({self.split_by}) under {self.root}; "
                f"present: {list(self.splits)}; use one of these, or complete the data set"
            )

    def _sentences(
        self, ref: Ref, expressions_per_ref: int | None, max_words: int, skips: list[Skip]
    ) -> Iterator[tuple[int, str]]:
        """Yield the usable sentences of a ref and note the others in `skips`."""
        num_left = len(ref.sentences) if expressions_per_ref is None else expressions_per_ref
        for sent_id, expression in ref.sentences:
            if num_left <= 0:
                return
            if not expression:
                skips.append(
                    Skip("empty_expression", sent_id, self._path(ref.image_id), f"ref {ref.ref_id} says nothing")
                )
                continue
            words = expression.split(" ")
            if len(words) > max_words:
                reason = f"{len(words)} words, cut to max_words={max_words}; the item stays"
                skips.append(Skip("long_expression_cut", sent_id, self._path(ref.image_id), reason))
                expression = " ".join(words[:max_words])
            num_left -= 1
            yield sent_id, expression

    def _path(self, image_id: int) -> str:
        row = self._cache.refs.image(image_id)
        return str(self._image_dir / row.file_name) if row else ""

    def _locate(self, image_id: int) -> tuple[str, int, int] | _Problem:
        """Return path, width and height of an image, from the table where it has them, else from the image's header."""
        if image_id not in self._located:
            self._located[image_id] = self._locate_uncached(image_id)
        return self._located[image_id]

    def _locate_uncached(self, image_id: int) -> tuple[str, int, int] | _Problem:
        row = self._cache.refs.image(image_id)
        if row is None:
            return _Problem("missing_image", f"image_id {image_id} is not in the images of instances.json")
        path = os.path.join(str(self._image_dir), row.file_name)  # faster than pathlib, and once per image
        if row.width_px and row.height_px:
            return path, row.width_px, row.height_px
        try:
            return path, *read_header(path).size
        except BadPicture as error:
            return _Problem(error.kind, f"instances.json has no size for this image: {error}")

    def _hint(self, ref: Ref, located: tuple[str, int, int] | _Problem) -> Hint | _Problem | None:
        """Return where the user says the object of a ref is."""
        if not ref.hint or isinstance(located, _Problem):
            return None
        _, width, height = located
        try:
            return read_hint(json.loads(ref.hint), width, height).fractions(width, height)
        except BadValue as error:
            return _Problem("invalid_hint", f"{error.at(f'ref {ref.ref_id}')}")

    def _noted(self, hint: Hint | _Problem | None, ref: Ref, sent_id: int, skips: list[Skip]) -> Hint | None:
        """Return the hint of a sentence; a bad one is noted in `skips`."""
        if not isinstance(hint, _Problem):
            return hint
        skips.append(Skip(hint.kind, sent_id, self._path(ref.image_id), hint.reason))
        return None

    def _truth(self, ref: Ref, located: tuple[str, int, int] | _Problem) -> tuple[Rle, str] | _Problem:
        """Return the mask of what a ref refers to, the union of its annotations, and their category."""
        found = [(ann_id, self._cache.truths.truth(ann_id)) for ann_id in ref.ann_ids]
        try:
            for ann_id, truth in found:
                require_segmentation(ann_id, truth, ref.image_id)
            if isinstance(located, _Problem):
                return located
            size = located[1:]
            masks = [annotation_mask(*one, ref.image_id, size, self.mask_rule) for one in found]
            rle = object_mask(masks, [truth.segmentation for _, truth in found if truth], *size)
        except BadValue as error:
            return _Problem(_KINDS.get(error.args[0], "invalid_mask"), f"{_annotations(ref)}: {error}")
        categories = {self._cache.truths.category(truth.category_id) for _, truth in found if truth}
        return rle, categories.pop() if len(categories) == 1 else ""


def _annotations(ref: Ref) -> str:
    return f"annotation {', '.join(map(str, ref.ann_ids))}"
