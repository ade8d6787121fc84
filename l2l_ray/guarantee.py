"""A promise about exported labels: "iou>=0.7 for 90% at 95%".

In words: with a probability of at least 95 % over the draw of the labeled images, at least 90 % of the exported labels
have an IoU of at least 0.7 with the truth. Exported are all labels from some confidence on; this file finds how low it
may be.

Whether labels from a confidence on keep the promise is tested on the labeled images, each seen through teachers that
never saw it (`calibration.py`). Labels of one image share its difficulty, so one of each image counts, drawn at random,
and so the promised share is that of an image's labels, averaged over images. The number of bad ones is binomial; the
test is exact. The surest twentieth of the labels is tested first, then the surest two, and so on to the first that
fails; so all tests together err no more often than one (fixed-sequence testing). It begins where there are twice the
images that would pass if all were good, for there one bad label does not end it. Coarser steps export less; finer ones
fail more often by chance.

It holds where the labeled images were drawn like the unlabeled ones, and labels of one rank of confidence are as often
good on unlabeled images as on labeled ones; that a promise was chosen after others had been tried is not accounted for.

Source: Learn-then-Test, Angelopoulos et al. 2021 (fixed-sequence testing); the steps and one label per image are ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from l2l_ray.calibration import Checked
from l2l_ray.errors import ConfigError
from l2l_ray.randomness import philox_generator

# What a promise rests on, for whoever gets the labels without this file.
SUPPOSES = (
    "the labeled images were drawn like the others; labels of one rank of confidence are as often good on the others; "
    "the share is that of an image's labels, averaged over images; no other promise was tried before"
)
NUM_STEPS = 20
_STEP = 0.05  # of the shares that are tried in a promise's place
_TIMES_MORE = (1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # as many labeled images that are tried
_SYNTAX = re.compile(r"\s*iou\s*>=\s*(\d*\.?\d+)\s+for\s+(\d+\.?\d*)\s*%\s+at\s+(\d+\.?\d*)\s*%\s*")


@dataclass(frozen=True)
class Promise:
    """What is promised of the exported labels.

    Example: `Promise.parse("iou>=0.7 for 90% at 95%")` is `Promise(0.7, 0.9, 0.95)`
    """

    iou: float  # that a good label reaches, in (0, 1]
    share: float  # of the labels that are good, at least; in (0, 1)
    certainty: float  # that this is so, at least; in (0, 1)

    @classmethod
    def parse(cls, text: str) -> Promise:
        """Read a promise.

        Raises:
            ConfigError: It is none, or a number is out of range.
        """
        found = _SYNTAX.fullmatch(text.lower())
        if found:
            iou, share, certainty = float(found[1]), float(found[2]) / 100, float(found[3]) / 100
            if 0 < iou <= 1 and 0 < share < 1 and 0 < certainty < 1:
                return cls(iou, share, certainty)
        raise ConfigError(
            f"a guarantee is an IoU in (0, 1] and two percentages between 0 and 100, got {text!r}; write e.g. "
            "'iou>=0.7 for 90% at 95%': 95 % sure that 90 % of the labels have an IoU of 0.7 or more"
        )

    def __str__(self) -> str:
        return f"iou>={self.iou:g} for {100 * self.share:g}% at {100 * self.certainty:g}%"


@dataclass(frozen=True)
class Guarantee:
    """From which confidence on labels keep a promise, and what says so.

    Example: `find_guarantee(Promise(0.5, 0.8, 0.9), calibration.checked).confidence`
    """

    promise: Promise
    confidence: float  # labels from here on
    num_images: int  # labeled images with such a label: so many were looked at
    num_bad: int  # of them, one label each

    @property
    def line(self) -> str:
        """It in words."""
        return (
            f"{self.promise}: labels of confidence {self.confidence:.3f} or more; of {self.num_images} labeled images "
            f"with such a label {self.num_bad} had a worse one"
        )


def find_guarantee(promise: Promise, checked: Checked, times: float = 1) -> Guarantee | None:
    """Return the lowest confidence from which on labels keep a promise; None where there is none.

    Args:
        promise: What they are to keep.
        checked: Labels of labeled images, estimates calibrated.
        times: As if there were so many times as many images, and as many bad labels among them.
    """
    from scipy.stats import binom

    error, found = 1 - promise.certainty, None
    steps = list(_steps(promise, checked))
    begin = min(2 * fewest_images(promise), math.floor(steps[-1][1] * times)) if steps else 0
    for confidence, num_images, num_bad in steps:
        num = math.floor(num_images * times)
        if num < begin:
            continue
        # the probability of so few bad ones, were the promise just broken
        if binom.cdf(math.ceil(num_bad * times), num, 1 - promise.share) > error:
            break
        found = Guarantee(promise, confidence, num_images, num_bad)
    return found


def require_guarantee(promise: Promise, checked: Checked) -> Guarantee:
    """Return what `find_guarantee` does.

    Raises:
        ConfigError: The promise cannot be given; the message says which could be, and what this one would take.
    """
    found = find_guarantee(promise, checked)
    if found is not None:
        return found
    images = len(set(checked.image_ids))
    raise ConfigError(
        f"{promise} cannot be given, with {images} labeled images: {_what_it_takes(promise, checked, images)}; "
        f"{_what_could_be(promise, checked)}"
    )


def fewest_images(promise: Promise) -> int:
    """Return with how many images, all of them good, a promise can be given."""
    return math.ceil(math.log(1 - promise.certainty) / math.log(promise.share))


def _steps(promise: Promise, checked: Checked) -> Iterator[tuple[float, int, int]]:
    """Yield, for a twentieth of the labels, two, and so on: from which confidence on, images, bad ones."""
    places = philox_generator(0).random(len(checked))  # of an image's labels in question, the one of the lowest counts
    order = np.argsort(-np.asarray(checked.estimates), kind="stable").tolist()
    drawn: dict[int, int] = {}  # image -> row of its label
    done = 0
    for step in range(1, NUM_STEPS + 1 if order else 0):
        confidence = checked.estimates[order[math.ceil(len(order) * step / NUM_STEPS) - 1]]
        while done < len(order) and checked.estimates[order[done]] >= confidence:  # of equal ones, all
            row = order[done]
            before = drawn.get(checked.image_ids[row])
            if before is None or places[row] < places[before]:
                drawn[checked.image_ids[row]] = row
            done += 1
        yield confidence, len(drawn), sum(checked.ious[row] < promise.iou for row in drawn.values())


def _what_it_takes(promise: Promise, checked: Checked, images: int) -> str:
    needed = next((times for times in _TIMES_MORE if find_guarantee(promise, checked, times)), None)
    if needed is None:
        return "more of them would not help, as too many even of the surest labels are worse"
    return f"it would take about {math.ceil(images * (needed - 1))} more, if those turn out like these"


def _what_could_be(promise: Promise, checked: Checked) -> str:
    for step in range(math.ceil(promise.share / _STEP) - 1, 0, -1):
        lower = Promise(promise.iou, round(step * _STEP, 2), promise.certainty)
        if find_guarantee(lower, checked):
            return f"'{lower}' can"
    return f"nor can any lower share of labels with an IoU of {promise.iou:g}; ask for a lower IoU"
