"""The records that the parts of the package hand to each other: frozen, small, picklable.

An `Example` is what an unlabeled item is allowed to know: it has no mask, box, area or category, so code that labels,
trains on pseudo-labels or computes rewards cannot reach hidden truth. `LabeledExample` adds the mask.

Coordinates: `*_frac` are fractions of the image in [0, 1], x to the right, y down; `*_px` are native pixels.
The *grid* is the decoder's finest output: `G x G` cells covering the whole image (the image is squashed to a square,
as LAVT does), so image -> grid is one scale per axis.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int8, UInt8
    from torch import Tensor

SAMPLE_SEPARATOR = "\x1e"  # ASCII's record separator

BoxFrac = tuple[float, float, float, float]
PointFrac = tuple[float, float]


class Rle(TypedDict):
    """COCO compressed run-length encoding of one binary mask.

    Example: `{"size": [128, 128], "counts": "PPY13n3"}` (size is height, width).
    """

    size: list[int]
    counts: str


@dataclass(frozen=True, slots=True)
class Hint:
    """Where a user says the referent is: a box, points on it, or both. A guess to go by, not truth; see data/hints.py.

    Example: `Hint((.1, .2, .5, .6), ())`
    """

    box_xyxy_frac: BoxFrac | None
    points_xy_frac: tuple[PointFrac, ...]

    @classmethod
    def from_json(cls, text: str) -> Hint:
        """Return the hint that `to_json` wrote, equal to it."""
        return cls(**{name: _tuples(value) for name, value in json.loads(text).items()})

    def to_json(self) -> str:
        """Return all fields as JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Example:
    """One image-expression pair without any truth.

    Example: `Example(7, 3, 12, "/data/images/12.jpg", 640, 480, "left man in red")`
    """

    sent_id: int
    ref_id: int
    image_id: int
    image_path: str
    width_px: int
    height_px: int
    expression: str
    hint: Hint | None = field(default=None, kw_only=True)

    def without_truth(self) -> Example:
        """Return the item with nothing but what an unlabeled one knows."""
        return Example(
            self.sent_id,
            self.ref_id,
            self.image_id,
            self.image_path,
            self.width_px,
            self.height_px,
            self.expression,
            hint=self.hint,
        )


@dataclass(frozen=True, slots=True)
class LabeledExample(Example):
    """An `Example` whose mask is known (labeled train images, val and test images).

    `is_reviewed`: the mask began as a model's label, which a person confirmed or corrected. Such items were mostly
    chosen for their doubt, so they are good to learn from, and stand for no others.

    Example: `LabeledExample(7, 3, 12, "/data/images/12.jpg", 640, 480, "man", {"size": [480, 640], ...}, "person")`
    """

    mask_rle: Rle
    category: str
    is_reviewed: bool = False


@dataclass(frozen=True, slots=True)
class Skip:
    """One item left out, with the reason; all of them are listed at the end of a run.

    Example: `Skip("truncated_image", 7, "/data/images/12.jpg", "image file is truncated (4 bytes not processed)")`
    """

    kind: str
    sent_id: int
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Prior:
    """What the frozen MLLM, or the user, said about one image-expression pair.

    `boxes_xyxy_frac` and `box_scores` have equal length; both empty means "no prior" and `failure` says why.
    `score` in [0, 1] is exp(mean token log-probability) of the reply, or how far several samples of it agree
    (`prior/reply.py::make_prior`); 0 when there is no prior. `reply` holds all samples; `texts` are they, one by one.
    `polygons_xy_frac` outline the referent (Florence-2); their union is one region; its bounding box is also a box.
    `masks` are SAM's (`prior/masks.py` reads them): one for each box, or some alternatives for points without a box;
    `mask_scores` in [0, 1] are the IoU that SAM foretells of each. Both are empty unless `prior.proposal` is `sam`.
    `source` is whose boxes they are: a user's box is as sure as a prior can be, and has a score of 1.
    `seen_xy_px` is the size at which the model saw the image, (0, 0) where nobody knows: what pixels in `reply` mean.

    Example: `Prior("9f..", ((.1, .2, .5, .6),), (.83,), (), "circle", .83, "", '[{"bbox_2d": [100, 200, 500, 600]}]')`
    """

    key: str
    boxes_xyxy_frac: tuple[BoxFrac, ...]
    box_scores: tuple[float, ...]
    points_xy_frac: tuple[PointFrac, ...]
    phrase: str
    score: float
    failure: str
    reply: str
    polygons_xy_frac: tuple[tuple[PointFrac, ...], ...] = ()
    source: Literal["mllm", "user"] = "mllm"
    seen_xy_px: tuple[int, int] = (0, 0)
    masks: tuple[str, ...] = ()
    mask_scores: tuple[float, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The samples that `reply` holds; one, perhaps empty, where the model was asked once or not at all."""
        return tuple(self.reply.split(SAMPLE_SEPARATOR))

    @property
    def says_where(self) -> bool:
        """Whether it has a box or a point, which is what masks are drawn from."""
        return bool(self.boxes_xyxy_frac or self.points_xy_frac)

    @classmethod
    def absent(cls, key: str, failure: str, reply: str, seen_xy_px: tuple[int, int] = (0, 0)) -> Prior:
        """Return "no prior", with the reason and the reply that is none."""
        return cls(key, (), (), (), "", 0.0, failure, reply, seen_xy_px=seen_xy_px)

    @classmethod
    def from_json(cls, text: str) -> Prior:
        """Return the prior that `to_json` wrote, equal to it.

        Raises:
            ValueError: The text is not the JSON of a prior.
        """
        try:
            return cls(**{name: _tuples(value) for name, value in json.loads(text).items()})
        except (AttributeError, TypeError) as error:
            raise ValueError(f"not the JSON of a prior: {error}") from error

    def to_json(self) -> str:
        """Return all fields as JSON; that the MLLM is the source and that there are no masks goes without saying."""
        fields = asdict(self)
        if self.source == "mllm":
            del fields["source"]
        if not self.masks:
            del fields["masks"], fields["mask_scores"]
        return json.dumps(fields)


def _tuples(value: Any) -> Any:
    """JSON has no tuples: turn nested lists back."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


class Candidate(IntEnum):
    """The labels there are for one item: a selector takes one of them, or leaves the item out."""

    GUIDED = 0  # the teacher's, with the prior
    UNGUIDED = 1  # the teacher's, without it
    FLIPPED = 2  # the teacher's from the mirrored image, without the prior
    PRIOR = 3  # the prior's own mask: the MLLM's box, polygon or SAM's mask


@dataclass(frozen=True)
class Evidence:
    """Everything a selector may look at for a batch; all probabilities in [0, 1], on the grid, detached.

    Example: see `loop/inference/teacher.py::gather_evidence`, the only producer.
    """

    mask_probs: Float[Tensor, "B G G"]  # with the prior: what becomes the teacher's label
    mask_probs_unguided: Float[Tensor, "B G G"]  # without the prior: independent evidence
    mask_probs_flipped: Float[Tensor, "B G G"]  # without the prior, from the mirrored image, mirrored back
    proposal: Float[Tensor, "B G G"]  # soft proposal q; constant where has_prior is False
    prior_score: Float[Tensor, " B"]
    has_prior: Bool[Tensor, " B"]
    rival_iou: Float[Tensor, "B K"]  # of each `Candidate`: see `selector/candidates.py::rival_ious`


@dataclass(frozen=True)
class Selection:
    """A selector's decision for a batch.

    `pixel_weight` in [0, 1] multiplies the loss of each accepted cell; it is 0 where a cell is ignored, and everywhere
    in a sample that is left out.
    Example: `Selection(source, target, weight, gate, confidence, mean_log_prob)` from any `selector` class.
    """

    source: Int8[Tensor, " B"]  # the `Candidate` whose label is the target
    target: Bool[Tensor, "B G G"]
    pixel_weight: Float[Tensor, "B G G"]
    gate: Float[Tensor, " B"]  # probability (or 0/1) that the sample is used; it is from 0.5 on
    confidence: Float[Tensor, " B"]  # estimated IoU of `target` with the truth, in [0, 1]; see confidence.py
    mean_log_prob: Float[Tensor, " B"]  # of the decisions; 0 for deterministic rules

    @property
    def accepted(self) -> Bool[Tensor, "B G G"]:
        """True where a cell is trained on."""
        return self.pixel_weight > 0

    @property
    def used(self) -> Bool[Tensor, " B"]:
        """Whether training uses the label: some accepted cell is of the object."""
        return (self.accepted & self.target).flatten(1).any(1)


@dataclass(frozen=True)
class PseudoLabel:
    """One committed pseudo-label: what the ledger's shards hold.

    Example: one row of `labels/r001/s00004.parquet`.
    """

    sent_id: int
    grid: int
    source: Candidate  # whose label the target is
    target: Bool[np.ndarray, "G G"]
    accepted: Bool[np.ndarray, "G G"]  # cells that are trained on; none in a sample that is left out
    weight: UInt8[np.ndarray, "G G"] | None  # 255 = weight 1; None = 1 on every accepted cell
    gate: float
    confidence: float  # estimated IoU of `target` with the truth, in [0, 1]; see confidence.py
    seed: int
    mean_log_prob: float
    version: int
    prior_key: str
    sees_truth: bool = False  # made with hidden truth, by a benchmark's reference; no selector can


@dataclass(frozen=True, slots=True)
class PhotoText:
    """One photo and what to look for in it; perhaps with a hint, as a row of own data says it (see data/hints.py).

    Example: `PhotoText(Path("12.jpg"), "left man", {"box": [10, 20, 30, 40]})`
    """

    image_path: Path
    expression: str
    hint: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f'{self.image_path} "{self.expression}"'
