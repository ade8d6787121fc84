"""A promise about exported labels: "iou>=0.7 for 90% at 95%".

In words: with a probability of at least 95 % over the draw of the labeled images, at least 90 % of labels like the
exported ones are expected to have an IoU of at least 0.7 with the truth. Exported are the surest so many percent of a
round's labels; this file finds how many it may be. The share is that of all labels that could have been drawn, not of
those that were: among few exported ones it differs by chance.

Whether a share of the labels keeps the promise is tested on the same share of the labels of labeled images, made by
teachers and selectors that never saw these (`calibration.Checked`). Labels of one image share its difficulty, so one of
each image counts, drawn at random, and so the promised share is that of an image's labels, averaged over images. Of the
labels above a given score the number of bad ones is binomial, and the test is exact. But the score that cuts off the
surest so many percent is that of the labeled ones, and luck moves it: the better the order, the more often a promise is
broken by that. Where labels are ordered as well as selectors do it here (AUC near .9) it is broken about as often as is
promised, and with a perfect order twice as often (tests/test_guarantee.py). The surest twentieth is tested first, then
the surest two, and so on to the first that fails; so all tests together err no more often than one (fixed-sequence
testing). It begins where there are twice the images that would pass if all were good, for there one bad label does not
end it. Coarser steps export less; finer ones fail more often by chance.

It holds where the labeled images were drawn like the unlabeled ones, and labels of one rank are as often good on
unlabeled images as on labeled ones. Each further promise that is tried is another test that errs. So what is offered in
place of one that cannot be given is tested at a tenth of its error, for it is picked out of ten at most: all offers
together err no more often than the promise that was asked for. Whoever tries several by hand is not accounted for.

Source: Learn-then-Test, Angelopoulos et al. 2021 (fixed-sequence testing), Bonferroni's correction over the offers; the
steps and one label per image are ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from l2l_ray.calibration import Checked
from l2l_ray.errors import ConfigError
from l2l_ray.randomness import philox_generator

# What a promise rests on, for whoever gets the labels without this file.
SUPPOSES = (
    "the share is that expected of labels like these, so among few of them it differs by chance; "
    "it is broken about as often as its certainty says, but up to twice as often where confidence puts good labels "
    "before bad ones almost without a mistake; "
    "the labeled images were drawn like the others; labels of one rank of confidence are as often good on the others, "
    "whose teacher is a later one; "
    "the share is that of an image's labels, averaged over images; IoU is that of the label's grid cells, as squares; "
    "of several promises that could be given, this one was not picked for what it exports"
)
NUM_STEPS = 20
FEW_PHOTOS = 300  # of fewer the share is off by more than 3.5 points of 90 % in one of twenty exports
MAX_CERTAINTY = 0.999999  # more would take thousands of labeled images, and is lost in rounding
_LOWER_SHARES = [percent / 100 for percent in range(95, 45, -5)]  # that are tried in a promise's place
_TIMES_MORE = [1.1**power for power in range(1, 37)]  # as many labeled images that are tried; up to 30
_SYNTAX = re.compile(r"\s*iou\s*>=\s*(\d*\.?\d+)\s+for\s+(\d+\.?\d*)\s*%\s+at\s+(\d+\.?\d*)\s*%\s*")


@dataclass(frozen=True)
class Promise:
    """What is promised of the exported labels.

    Example: `Promise.parse("iou>=0.7 for 90% at 95%")` is `Promise(0.7, 0.9, 0.95)`
    """

    iou: float  # that a good label reaches, in (0, 1]
    share: float  # of labels like the exported ones that are good, expected at least; in (0, 1)
    certainty: float  # that this is so, at least; in (0, `MAX_CERTAINTY`]

    @classmethod
    def parse(cls, text: str) -> Promise:
        """Read a promise.

        Raises:
            ConfigError: It is none, or a number is out of range.
        """
        found = _SYNTAX.fullmatch(text.lower())
        if found:
            iou, share, certainty = float(found[1]), float(found[2]) / 100, float(found[3]) / 100
            if 0 < iou <= 1 and 0 < share < 1 and 0 < certainty <= MAX_CERTAINTY:
                return cls(iou, share, certainty)
        raise ConfigError(
            f"a guarantee is an IoU in (0, 1], a percentage between 0 and 100 and one above 0 and up to "
            f"{100 * MAX_CERTAINTY:.10g}, got {text!r}; write e.g. "
            "'iou>=0.7 for 90% at 95%': 95 % sure that of such labels 90 % have an IoU of 0.7 or more"
        )

    def __str__(self) -> str:
        return f"iou>={self.iou:g} for {100 * self.share:.10g}% at {100 * self.certainty:.10g}%"

    def by_chance(self, num_photos: int) -> str:
        """Say how far the share among the labels of few photos may be from the promised one; "" where they are many."""
        if not 0 < num_photos < FEW_PHOTOS:
            return ""
        points = 200 * math.sqrt(self.share * (1 - self.share) / num_photos)  # two standard deviations of a share
        return (
            f"; {100 * self.share:g} % are promised of labels like these: among those of {num_photos} photos alone, "
            f"chance makes it up to {points:.0f} points less or more"
        )


@dataclass(frozen=True)
class Guarantee:
    """Which share of the labels keeps a promise, and what says so.

    Example: `find_guarantee(Promise(0.5, 0.8, 0.9), calibration.checked).coverage`
    """

    promise: Promise
    coverage: float  # the surest labels, this share of all; in (0, 1]
    num_images: int  # labeled images with such a label: so many were looked at
    num_bad: int  # of them, one label each

    def kept(self, confidences: Float[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
        """Return which labels of a round it is about; of equal ones that do not all belong to them, none."""
        num = math.floor(self.coverage * len(confidences) + 1e-9)
        lowest = np.sort(confidences)[::-1][num] if num < len(confidences) else -math.inf
        kept: Bool[np.ndarray, " N"] = confidences > lowest
        return kept


class _Step(NamedTuple):
    """The surest labels of labeled images, one of each image, and how many of these are bad."""

    coverage: float
    num_images: int
    num_bad: int


def find_guarantee(promise: Promise, checked: Checked) -> Guarantee | None:
    """Return the largest share of the labels that keeps a promise; None where there is none.

    Args:
        promise: What they are to keep.
        checked: Labels of labeled images.
    """
    return _largest(promise, _steps(promise.iou, checked))


def require_guarantee(promise: Promise, checked: Checked) -> Guarantee:
    """Return what `find_guarantee` does.

    Raises:
        ConfigError: The promise cannot be given; the message says which could be, and what this one would take.
    """
    steps = _steps(promise.iou, checked)
    found = _largest(promise, steps)
    if found is not None:
        return found
    images = len(set(checked.image_ids))
    raise ConfigError(
        f"{promise} cannot be given: by {images} labeled images that were checked, "
        f"{_what_it_takes(promise, steps, images)}; {_what_could_be(promise, steps)}"
    )


def fewest_images(promise: Promise) -> int:
    """Return with how many images, all of them good, a promise can be given."""
    images = math.log(1 - promise.certainty) / math.log(promise.share)
    return math.ceil(images * (1 - 1e-12))  # of a whole number that rounding made larger, that number


def _steps(iou: float, checked: Checked) -> list[_Step]:
    """Return a twentieth of the labels, two, and so on; none where there are no labels."""
    places = philox_generator(0).random(len(checked))  # of an image's labels in question, the one of the lowest counts
    order = np.argsort(-np.asarray(checked.ranks), kind="stable").tolist()
    drawn: dict[int, int] = {}  # image -> row of its label
    found: list[_Step] = []
    done = 0
    for step in range(1, NUM_STEPS + 1 if order else 0):
        for row in order[done : math.ceil(len(order) * step / NUM_STEPS)]:
            before = drawn.get(checked.image_ids[row])
            if before is None or places[row] < places[before]:
                drawn[checked.image_ids[row]] = row
            done += 1
        found.append(_Step(step / NUM_STEPS, len(drawn), sum(checked.ious[row] < iou for row in drawn.values())))
    return found


def _largest(promise: Promise, steps: Sequence[_Step], times: float = 1) -> Guarantee | None:
    """Return the last step before the first that fails, as if there were `times` as many images, good and bad."""
    from scipy.stats import binom

    found = None
    begin = min(2 * fewest_images(promise), math.floor(steps[-1].num_images * times)) if steps else 0
    for step in steps:
        num = math.floor(step.num_images * times)
        if num < begin:
            continue
        # the probability of so few bad ones, were the promise just broken
        if binom.cdf(math.ceil(step.num_bad * times), num, 1 - promise.share) > 1 - promise.certainty:
            break
        found = Guarantee(promise, *step)
    return found


def _what_it_takes(promise: Promise, steps: Sequence[_Step], images: int) -> str:
    if not images:
        return "nothing is known of the others"
    needed = next((times for times in _TIMES_MORE if _largest(promise, steps, times)), None)
    if needed is None:
        return "too many even of the surest labels are worse, and more images would not help"
    return f"it would take about {math.ceil(images * (needed - 1))} more, if those turn out like these"


def _what_could_be(promise: Promise, steps: Sequence[_Step]) -> str:
    shares = [share for share in _LOWER_SHARES if share < promise.share]
    if not shares:
        return "ask for a lower IoU"
    tries = len(_LOWER_SHARES)
    certainty = round(1 - (1 - promise.certainty) / tries, 12)
    for share in shares:
        lower = Promise(promise.iou, share, certainty)
        if _largest(lower, steps):
            return f"'{lower}' can, so much surer because it was picked out of up to {tries} by these images"
    return (
        f"nor can a lower share down to {_LOWER_SHARES[-1]:.0%} of labels with an IoU of {promise.iou:g} at "
        f"{100 * certainty:.10g}%; ask for a lower IoU"
    )
