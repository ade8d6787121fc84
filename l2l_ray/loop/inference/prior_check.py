"""Does the language model find the objects, and are its numbers read in the right unit? Told on labeled images alone.

A run reads its own labeled priors (`require_usable`) and stops where their boxes are surely useless, or where the same
answers are far better in another unit; `l2l prior check` (`prior_command`) asks about some labeled images. The answers
about unlabeled images are never compared with anything here.

*Box accuracy* is the share of texts whose first box, the one that the proposal takes for the object, has an IoU of at
least `RIGHT_IOU` with the box around the labeled mask; of a family of points, the share whose first point lies in that
box. Texts to which the model says nothing usable count as wrong.

When a run stops, ours:
- Another unit: right at least `FAR_BETTER` more often, and by a sign test over the texts that are right in one unit
  alone. The unit is one for all texts, so a handful of them is enough to tell.
- Surely useless: had the model an accuracy of `prior.min_accuracy`, fewer than 1 in 40 sets of so many images would
  come out so low. Images are counted, since the texts of one image share its difficulty. The embedded model is let go
  on with a warning: on photos it is useless, and whoever starts it there is told so anyway.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import numpy as np

from l2l_ray.config import EMBEDDED, PriorConfig
from l2l_ray.data.masks import mask_box
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.intervals import has_width, ratio_intervals, share_interval
from l2l_ray.loop.inference.ordering import RIGHT_IOU, auc
from l2l_ray.metrics import INTERVAL_RESAMPLES
from l2l_ray.prior.coordinates import BY_HAND, COORDINATES
from l2l_ray.prior.prompt import PromptFormat
from l2l_ray.prior.reply import MllmIdentity, Reply, box_iou, failure_kind, make_prior, no_box_reasons
from l2l_ray.types import BoxFrac, LabeledExample, Prior
from l2l_ray.wording import counted

logger = logging.getLogger(__name__)

FAR_BETTER = 0.2  # of the texts
_SIGN_TEST = 1e-3  # how often chance alone may make another unit look better
_SURELY = 0.025


@dataclass(frozen=True)
class PriorCheck:
    """What came out; see the text at the top.

    Example: `check_priors(labeled, priors, prompt).accuracy`

    Args:
        num: Texts.
        num_images: Their images.
        accuracy: Box accuracy.
        interval: Its 95 % interval, images resampled, or the exact one of a share where all images agree; None, None
            where there are too few.
        failures: Kind of failure (`reply.FAILURE_WORDS`) -> texts.
        auc: How well the score puts right boxes before wrong ones; None where there is nothing to order.
        by_coordinates: Unit -> box accuracy of the same answers read in it, the used unit first.
        better: The unit that is far better than the one used; empty where none is.
        is_useless: Whether the accuracy is surely below `prior.min_accuracy`.
    """

    num: int
    num_images: int
    accuracy: float
    interval: tuple[float | None, float | None]
    failures: dict[str, int]
    auc: float | None
    by_coordinates: dict[str, float]
    better: str
    is_useless: bool

    @property
    def used(self) -> str:
        """The unit that the answers are read in."""
        return next(iter(self.by_coordinates))

    def as_event(self) -> dict[str, Any]:
        """Return the figures as they stand in a run's metrics.jsonl."""
        low, high = self.interval
        return {
            "event": "prior_check",
            "num": self.num,
            "accuracy": self.accuracy,
            "low": low,
            "high": high,
            "failures": self.failures,
            "auc": self.auc,
            "by_coordinates": self.by_coordinates,
        }

    def problem(self, min_accuracy: float) -> str:
        """Say why these answers should not be used; empty where nothing speaks against it."""
        right = f"{self.accuracy:.2f} of its boxes on {counted(self.num, 'labeled text')}"
        if self.better:
            return (
                f"the language model answers in another unit than expected: read as {self.used}, {right} are right "
                f"(IoU >= {RIGHT_IOU}), read as {self.better}, {self.by_coordinates[self.better]:.2f}; expected the "
                "unit that its family is known for: begin again, under another --name, with --prior.coordinates "
                f"{self.better}"
            )
        if self.is_useless:
            return (
                f"the language model is of no use: {right} are right (IoU >= {RIGHT_IOU}), in no unit of coordinates "
                f"many more; expected at least prior.min_accuracy={min_accuracy:g}: `l2l prior check` with the same "
                "settings says more; begin again, under another --name, with another prior.model or prior.prompt, or "
                "with --prior.min_accuracy 0"
            )
        return ""

    def lines(self) -> list[str]:
        """Return what there is to say, for people."""
        low, high = self.interval
        sure = f", 95 % interval {low:.2f} to {high:.2f}" if low is not None and high is not None else ""
        shown = "cannot be told here" if self.auc is None else f"{self.auc:.2f} (1 = always, 0.5 = a coin)"
        failed = sum(self.failures.values())
        reasons = f": {no_box_reasons(self.failures)}" if failed else ""
        lines = [
            f"box accuracy (IoU >= {RIGHT_IOU}): {self.accuracy:.2f}{sure}",
            f"no usable answer: {failed} of {self.num}{reasons}",
            f"its confidence puts right before wrong: AUC {shown}",
            "accuracy of the same answers, read in each unit:",
        ]
        for name, accuracy in self.by_coordinates.items():
            mark = " (used)" if name == self.used else ""
            lines.append(f"  {accuracy:.2f}  {name}: {COORDINATES[name].words}{mark}")
        return lines


def check_priors(
    examples: Sequence[LabeledExample],
    priors: Sequence[Prior],
    prompt: PromptFormat,
    min_accuracy: float,
    resizes_photos: bool = False,
) -> PriorCheck:
    """Compare priors with the masks of their labeled examples.

    Args:
        examples: At least one.
        priors: What the MLLM said of each.
        prompt: The format it was asked in.
        min_accuracy: See `PriorCheck.is_useless`.
        resizes_photos: As `PriorConfig.resizes_photos`: then no answer is read in pixels of the photo itself.
    Raises:
        DataError: There is no example with a mask.
    """
    found = [(e, p, box) for e, p in zip(examples, priors, strict=True) if (box := mask_box(e.mask_rle)) is not None]
    if not found:
        raise DataError("no labeled item to compare a prior with; expected at least one with a mask: label some images")
    right = np.array([_is_right(prior, box) for _, prior, box in found])
    image_ids = [e.image_id for e, _, _ in found]
    others = _other_units(prompt, resizes_photos)
    by_unit = {prompt.coordinates: right} | {name: _right_in(name, found, prompt) for name in others}
    shares: dict[int, list[bool]] = defaultdict(list)
    for image_id, is_right in zip(image_ids, right, strict=True):
        shares[image_id].append(bool(is_right))
    # Rounded up, so that an image half of whose texts are right speaks for the model.
    num_right = math.ceil(sum(mean(share) for share in shares.values()))
    better = _far_better(by_unit)
    return PriorCheck(
        num=len(found),
        num_images=len(shares),
        accuracy=float(right.mean()),
        interval=_interval(right, image_ids, num_right),
        failures=dict(Counter(failure_kind(p.failure) for _, p, _ in found if p.failure)),
        auc=auc(np.array([p.score for _, p, _ in found]), right),
        by_coordinates={name: float(rights.mean()) for name, rights in by_unit.items()},
        better=better,
        is_useless=_at_most(num_right, len(shares), min_accuracy) < _SURELY and not better,
    )


def require_usable(
    config: PriorConfig, examples: Sequence[LabeledExample], priors: Sequence[Prior], prompt: PromptFormat
) -> PriorCheck | None:
    """Check a run's labeled priors before anything is built on them.

    Args:
        config: The prior section.
        examples: The run's labeled set.
        priors: What the MLLM said of each.
        prompt: The format it was asked in.
    Returns:
        What came out; None where no example was left to the MLLM alone.
    Raises:
        ConfigError: Another unit fits far better, or the answers are surely of no use.
    """
    asked = [(e, p) for e, p in zip(examples, priors, strict=True) if e.hint is None]
    if not asked:
        return None
    examples, priors = [e for e, _ in asked], [p for _, p in asked]
    check = check_priors(examples, priors, prompt, config.min_accuracy, config.resizes_photos)
    if problem := check.problem(config.min_accuracy):
        if check.better or config.model != EMBEDDED:
            raise ConfigError(problem)
        logger.warning("%s", problem)
    return check


def _other_units(prompt: PromptFormat, resizes_photos: bool) -> list[str]:
    """Return the units that answers of a format can be read in besides its own."""
    if prompt.coordinates not in BY_HAND or not prompt.uses_chat:
        return []
    unknown = [name for name in BY_HAND if resizes_photos and COORDINATES[name].of_photo]
    return [name for name in BY_HAND if name not in (prompt.coordinates, *unknown)]


_Found = tuple[LabeledExample, Prior, BoxFrac]


def _right_in(name: str, found: Sequence[_Found], prompt: PromptFormat) -> np.ndarray:
    read_as = MllmIdentity("", replace(prompt, coordinates=name))
    return np.array([_is_right(_read_again(prior, example, read_as), box) for example, prior, box in found])


def _read_again(prior: Prior, example: LabeledExample, read_as: MllmIdentity) -> Prior:
    any_log_prob = (0.0,) * len(prior.texts)  # which box is first does not depend on it
    is_cut = (failure_kind(prior.failure) == "cut off",) * len(prior.texts)
    said = Reply(prior.texts, any_log_prob, *prior.seen_xy_px, is_cut=is_cut)
    return make_prior(prior.key, said, read_as, example.width_px, example.height_px)


def _is_right(prior: Prior, truth: BoxFrac) -> bool:
    if prior.boxes_xyxy_frac:
        return box_iou(prior.boxes_xyxy_frac[0], truth) >= RIGHT_IOU
    points = prior.points_xy_frac[:1]
    return any(truth[0] <= x <= truth[2] and truth[1] <= y <= truth[3] for x, y in points)


def _interval(right: np.ndarray, image_ids: Sequence[int], num_right: int) -> tuple[float | None, float | None]:
    """Return the accuracy's 95 % interval; `num_right` images of them speak for the model."""
    low, high = ratio_intervals([(right, np.ones(len(right)))], image_ids, INTERVAL_RESAMPLES)[0]
    if low is None or high is None or has_width(low, high):
        return low, high
    return share_interval(num_right, len(set(image_ids)))


def _far_better(by_unit: dict[str, np.ndarray]) -> str:
    used, *others = by_unit
    best = max(others, key=lambda name: float(by_unit[name].mean()), default=used)
    wins = int((by_unit[best] & ~by_unit[used]).sum())
    losses = int((by_unit[used] & ~by_unit[best]).sum())
    is_chance = _at_most(losses, wins + losses, 0.5) >= _SIGN_TEST
    return "" if wins - losses < FAR_BETTER * len(by_unit[used]) or is_chance else best


def _at_most(num_right: int, num: int, share: float) -> float:
    """Return how likely at most `num_right` of `num` are right where each is with probability `share`."""
    if share in (0.0, 1.0):
        return float(share == 0 or num_right >= num)
    yes, no = math.log(share), math.log1p(-share)
    # As logarithms: the binomial coefficients of a thousand texts are beyond what a float holds.
    ways = (math.lgamma(num + 1) - math.lgamma(k + 1) - math.lgamma(num - k + 1) for k in range(num_right + 1))
    return min(1.0, math.fsum(math.exp(way + k * yes + (num - k) * no) for k, way in enumerate(ways)))
