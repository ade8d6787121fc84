"""One label as a reviewer looks at it: its masks at the photo's size, the prior behind it, and why it is doubtful.

Everything is made from what the run stores; no model is loaded here (`proposals.py` asks one, when somebody wants it).
The reasons are plain comparisons of stored masks on the decoder's grid:

- the confidence is low: the run's own estimate of the overlap with the truth;
- a rival: another expression of the photo, about another object, has a label on the same place;
- the label and the language model's place for the object differ, or there is no such place;
- the selector did not use the label, or the label has no pixel.

A mask travels as run lengths, background first, down the columns, at `edit size`: the photo's own size up to 24 million
pixels, else smaller. What a person draws at that size is brought to the photo's size by nearest pixel.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image

from l2l_ray.data.masks import annotation_rle, decode, encode, mask_area_px, nearest, run_lengths
from l2l_ray.data.pixels import read_rgb
from l2l_ray.datatools.record import ExportedMask, record
from l2l_ray.doubt import DOUBTFUL
from l2l_ray.errors import DataError
from l2l_ray.loop.evaluation.committed import native_mask, pseudo_mask
from l2l_ray.loop.state.ledger import is_used, read_shard
from l2l_ray.prior.proposal import Proposer
from l2l_ray.review.journal import Journal
from l2l_ray.review.journal_lines import Action
from l2l_ray.review.labels import Labels
from l2l_ray.types import Candidate, Example, Hint, Prior, PseudoLabel, Rle

MAX_EDIT_PX = 24_000_000  # a canvas of more takes a browser more than 100 MB
PREVIEW_PX = 2048  # longest side of the picture that is shown first
NOTHING = 0.005  # overlaps below it are none
SAME_PLACE = 0.5  # IoU from which two masks count as one place
MAX_RIVALS = 32  # other labels of a photo that are compared, the most doubtful first
_JPEG_QUALITY = 90
_MAX_RUNS = 2_000_000  # of a drawn mask
_SOURCES = {
    Candidate.GUIDED: "the model's own prediction, made with the language model's help",
    Candidate.UNGUIDED: "the model's own prediction, made without the language model's help",
    Candidate.FLIPPED: "the model's own prediction on the mirrored photo, without the language model's help",
    Candidate.PRIOR: "what the language model marked, taken as it is",
}
_MODEL = "the language model"  # in these words


class Runs(TypedDict):
    """A mask as a page draws it: COCO's uncompressed run lengths.

    Example: `{"height": 2, "width": 3, "counts": [1, 2, 3]}`
    """

    height: int
    width: int
    counts: list[int]


class Items:
    """The labels of a run, opened one by one.

    Args:
        labels: The labels.
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self._proposer = Proposer(labels.run.config.prior)
        # Bounded: a shard of 256 labels takes 1 MB, a mask of 20 million pixels some kB, a picture up to 1 MB.
        self._shard = lru_cache(8)(read_shard)
        self._mask = lru_cache(64)(self._made_mask)
        self._preview = lru_cache(16)(self._made_picture)

    def details(self, sent_id: int, journal: Journal) -> dict[str, Any]:
        """Return all there is to see of a label, as plain values.

        Raises:
            DataError: There is no such label, or its files are damaged.
        """
        labels = self.labels
        position = labels.position(sent_id)
        example, label = self._example(position), self._label(position)
        prior = labels.prior(sent_id)
        edit = edit_size(example.height_px, example.width_px)
        place = self._prior_cells(prior)
        number = journal.last_number(sent_id)  # first: what is decided from here on is refused as not seen
        standing = journal.standing(sent_id)
        return {
            **labels.row(position, journal, "expression"),
            "rank_by_image": labels.rank(position, "image"),
            "size": [example.height_px, example.width_px],
            "edit_size": list(edit),
            "number": number,
            "standing": standing.number if standing else 0,
            "history": [action.words for action in journal.history(sent_id)],
            "source": _SOURCES[label.source].replace(_MODEL, _whose(prior)),
            "is_used": is_used(label),
            "kind": prior.phrase if prior else "",
            "boxes": [list(box) for box in prior.boxes_xyxy_frac] if prior else [],
            "by_user": prior is not None and prior.source == "user",
            "hint": _hint_box(example.hint),
            "reasons": self._reasons(position, example, label, prior, place),
            "others": [labels.row(other, journal, "image") for other in labels.of_image(position) if other != position],
            "has_prior_mask": place is not None,
            "masks": {
                "label": _at_size(self._mask(sent_id).rle, edit),
                "now": self._decided(standing, journal, edit),
            },
        }

    def prior_mask(self, sent_id: int) -> Runs:
        """Return the language model's own mask, or its box as one.

        Raises:
            DataError: There is none.
        """
        example, place = self.photo(sent_id), self._prior_cells(self.prior(sent_id))
        if place is None:
            raise DataError(f"the language model did not say where the object of sentence {sent_id} is; draw a box")
        return _runs(encode(native_mask(_logits(place), *edit_size(example.height_px, example.width_px))))

    def record(self, sent_id: int) -> tuple[dict[str, Any], Rle]:
        """Return the record of a label without masks (`datatools/record.py`), and its mask at the photo's size.

        Raises:
            DataError: There is no such label, or its files are damaged.
        """
        mask = self._mask(sent_id)
        found = record(mask, self.labels.image_root, without=("rle", "accepted_rle"))
        return {**found, "ref_id": mask.example.ref_id, "image_root": str(self.labels.image_root)}, mask.rle

    def drawn(self, sent_id: int, counts: Any) -> Rle:
        """Return what a person drew, at the photo's size.

        Args:
            sent_id: On whose label.
            counts: Run lengths at edit size.
        Raises:
            DataError: They are none, or the mask has no pixel.
        """
        example = self._example(self.labels.position(sent_id))
        height, width = edit_size(example.height_px, example.width_px)
        if not isinstance(counts, list) or len(counts) > _MAX_RUNS or not all(type(run) is int for run in counts):
            raise DataError(
                f"a drawn mask must be a list of at most {_MAX_RUNS} run lengths, got {type(counts).__name__}; "
                "draw it again"
            )
        rle = annotation_rle({"size": [height, width], "counts": counts}, height, width)
        if not mask_area_px(rle):
            raise DataError(
                "the drawn mask has no pixel, expected some; draw the object, or say that the photo does not show it"
            )
        if (height, width) == (example.height_px, example.width_px):
            return rle
        return encode(nearest(decode(rle), example.height_px, example.width_px))

    def photo(self, sent_id: int) -> Example:
        """Return the item of a label.

        Raises:
            DataError: There is no such label.
        """
        return self._example(self.labels.position(sent_id))

    def preview(self, sent_id: int) -> bytes:
        """Return a photo as JPEG, as its masks lie on it (not turned as EXIF says), at most `PREVIEW_PX` a side.

        Raises:
            DataError: It cannot be read.
        """
        return self._preview(self.photo(sent_id).image_path, PREVIEW_PX)

    def picture(self, sent_id: int) -> bytes:
        """Return a photo as JPEG, as its masks lie on it, at the edit size.

        Raises:
            DataError: It cannot be read.
        """
        return self._made_picture(self.photo(sent_id).image_path, None)

    @staticmethod
    def _made_picture(path: str, longest_px: int | None) -> bytes:
        picture = read_rgb(path)
        height, width = edit_size(picture.height, picture.width)
        share = 1.0 if longest_px is None else min(1.0, longest_px / max(height, width))
        size = max(1, round(width * share)), max(1, round(height * share))
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=_JPEG_QUALITY)
        return content.getvalue()

    def prior(self, sent_id: int) -> Prior | None:
        """Return what the language model said of an item; None = it was not asked."""
        return self.labels.prior(sent_id)

    def _example(self, position: int) -> Example:
        return self.labels.example(position)

    def _label(self, position: int) -> PseudoLabel:
        path, row = self.labels.shard(position)
        return self._shard(path)[row]

    def _made_mask(self, sent_id: int) -> ExportedMask:
        position = self.labels.position(sent_id)
        return pseudo_mask(self._example(position), self._label(position), self.labels.about)

    @staticmethod
    def _decided(standing: Action | None, journal: Journal, edit: tuple[int, int]) -> Runs | None:
        """Return the mask that a person put in the place of the label's; None = the label's own stands, or none."""
        if standing is not None and standing.action == "no_object":
            return {"height": edit[0], "width": edit[1], "counts": [edit[0] * edit[1]]}
        rle = journal.whole(standing).rle if standing is not None and standing.action == "redraw" else None
        return None if rle is None else _at_size(rle, edit)

    def _prior_cells(self, prior: Prior | None) -> Bool[np.ndarray, "G G"] | None:
        if prior is None or prior.failure:
            return None
        batch = self._proposer.proposals([prior], _GRID_OF_PRIOR)
        cells: Bool[np.ndarray, "G G"] = (batch.proposal[0] > 0.5).numpy()
        return cells if batch.has_prior[0] and cells.any() else None

    def _reasons(
        self,
        position: int,
        example: Example,
        label: PseudoLabel,
        prior: Prior | None,
        place: Bool[np.ndarray, "G G"] | None,
    ) -> list[str]:
        found = []
        if not label.target.any():
            found.append("The label has no pixel: the model marked nothing.")
        elif label.confidence < DOUBTFUL:
            found.append(f"The run expects that the mask overlaps the object by only {_percent(label.confidence)}.")
        rivals = self._rivals(position, example, label)
        for iou, expression in rivals[:2]:
            found.append(
                f"“{expression}” claims the same place (overlap {_percent(iou)}), but is about another object."
            )
        if prior is None or prior.failure:
            why = f": {prior.failure}" if prior is not None else ""
            found.append(f"The language model did not say where the object is{why}.")
        elif place is not None and label.target.any():
            iou = _iou(nearest(place, label.grid, label.grid), label.target)
            if iou < SAME_PLACE:
                much = f"overlap by only {_percent(iou)}" if iou >= NOTHING else "do not overlap"
                found.append(f"The mask and {_whose(prior)}'s place for the object {much}.")
        if not is_used(label):
            found.append("The selector did not believe this label: training left it out.")
        return found

    def _rivals(self, position: int, example: Example, label: PseudoLabel) -> list[tuple[float, str]]:
        """Return the overlap and expression of labels of other objects on the same place, largest first."""
        found = []
        for other in self.labels.of_image(position)[:MAX_RIVALS]:
            if other == position or self._example(other).ref_id == example.ref_id:
                continue
            iou = _iou(label.target, self._label(other).target)
            if iou >= SAME_PLACE:
                found.append((iou, self.labels.expressions[other]))
        return sorted(found, reverse=True)


def _whose(prior: Prior | None) -> str:
    """Return what says where the object is: a hint that came with the text, which stands in for the model, or that."""
    return "the given hint" if prior is not None and prior.source == "user" else _MODEL


_GRID_OF_PRIOR = 128  # cells per side, at which a prior's place is drawn


def edit_size(height_px: int, width_px: int) -> tuple[int, int]:
    """Return height and width at which masks of a photo are drawn and corrected, px."""
    share = min(1.0, math.sqrt(MAX_EDIT_PX / (height_px * width_px)))
    return max(1, int(height_px * share)), max(1, int(width_px * share))


def as_runs(mask: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> Runs:
    """Return a mask as a page draws it, at another size if need be."""
    return _runs(encode(mask if mask.shape == size else nearest(mask, *size)))


def mask_iou(one: Rle, other: Rle) -> float:
    """Return the IoU of two masks of one size; 0 where both are empty."""
    return _iou(decode(one), decode(other))


def _iou(one: Bool[np.ndarray, "H W"], other: Bool[np.ndarray, "H W"]) -> float:
    union = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) / union if union else 0.0


def _at_size(rle: Rle, size: tuple[int, int]) -> Runs:
    return _runs(rle if tuple(rle["size"]) == size else encode(nearest(decode(rle), *size)))


def _runs(rle: Rle) -> Runs:
    height, width = rle["size"]
    return {"height": height, "width": width, "counts": run_lengths(rle).tolist()}


def _logits(cells: Bool[np.ndarray, "G G"]) -> torch.Tensor:
    return torch.from_numpy(np.where(cells, 1.0, -1.0))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _hint_box(hint: Hint | None) -> list[float] | None:
    return list(hint.box_xyxy_frac) if hint is not None and hint.box_xyxy_frac is not None else None
