"""What came out of a run and what to do first, in sentences: the top of the page, and the end of the terminal's output.

A single run says nothing of other seeds, so no sentence calls a method better than another: a difference whose interval
over images holds 0 is undecided, and one that does not is one of these trained models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from l2l_ray.doubt import Doubt
from l2l_ray.intervals import verdict
from l2l_ray.report.figures import NOTHING, ends_of, interval, percent, points_interval
from l2l_ray.report.next_steps import Step, correct_doubtful
from l2l_ray.report.record import TESTS, RunRecord, is_number
from l2l_ray.report.summary import main_scores, main_split

# Where a difference was measured; "all" is of older runs, and has val in it.
_PLACES = {
    TESTS: "On the tests together",
    "val": "There, where its version was chosen,",
    "all": "On all splits together",
}


@dataclass(frozen=True)
class Outcome:
    """A few sentences, and the first thing to do where there is one.

    Example: `Outcome(("L2L (RPLE) reached a mean IoU of 39.5 % on val (95 % interval 37.2 to 41.8).",), None)`
    """

    sentences: tuple[str, ...]
    step: Step | None


def outcome(record: RunRecord, decided: Doubt | None = None) -> Outcome:
    """Return what came out of a run; nothing where it has no final table yet.

    Args:
        record: The run.
        decided: Those labels of its last round that people have decided about; None = nobody has looked.
    """
    if not record.rows:
        return Outcome((), None)
    doubt = doubt_of(record)
    num_seen = 0 if decided is None else decided.doubtful
    is_open = doubt is not None and num_seen < doubt.doubtful
    labels = f"{doubt.words('labels of the last round', is_open)}." if doubt is not None else ""
    if doubt is not None and decided is not None and decided.num:
        labels += f" {decided.num:,} of the {doubt.num:,} were decided in a review since"
        labels += "." if is_open or not doubt.doubtful else ", all the doubtful among them."
    sentences = (_reached(record), _compared(record), _expected(record), labels)
    step = correct_doubtful(record) if is_open else None
    return Outcome(tuple(filter(None, sentences)), step)


def doubt_of(record: RunRecord) -> Doubt | None:
    """Return how many labels of the main method's last round are sure and doubtful; None where none were counted."""
    found = record.results.get("doubt")
    counts = [found.get(name) for name in ("num", "sure", "doubtful")] if isinstance(found, Mapping) else []
    known = [int(count) for count in counts if is_number(count)]
    return Doubt(*known) if len(known) == 3 and known[0] else None


def _reached(record: RunRecord) -> str:
    splits = main_scores(record)
    split = main_split(splits)
    value = splits.get(split, {}).get("mean_iou")
    if not is_number(value):
        return "How good the masks are was not measured: no photo with a true mask was held out of training."
    ends = ends_of(splits[split])
    sure = interval(ends.get("mean_iou.low"), ends.get("mean_iou.high"))
    place = "the held-out photos" if record.held_out and split == "val" else split
    between = "" if sure == NOTHING else f" (95 % interval {sure})"
    return f"{record.labels[record.main_method]} reached a mean IoU of {percent(value)} % on {place}{between}."


def _compared(record: RunRecord) -> str:
    """Say how far the main method is from the best of the others, on the tests together or what there is."""
    items = record.results.get("differences")
    found = [item for item in items if _is_of_main(item, record)] if isinstance(items, list) else []
    if not found:
        return ""
    item = min(found, key=lambda item: item["diff"])
    diff, low, high = item["diff"], item.get("low"), item.get("high")
    split = str(item.get("split"))
    best = ", the best of the others" if len(found) > 1 else ""
    rival = record.labels.get(str(item["versus"]), str(item["versus"]))
    ends = points_interval(low, high)
    side = "above" if diff >= 0 else "below"
    if ends == NOTHING:
        ends = "the same on all images" if is_number(low) else "too few images for an interval"
    said = f": undecided ({ends})"
    if verdict(low, high) != "undecided":
        said = f" (95 % interval over images {ends}); another seed may differ"
    return f"{_PLACES.get(split, f'On {split}')} it is {abs(100 * diff):.1f} points {side} {rival}{best}{said}."


def _expected(record: RunRecord) -> str:
    """Say what the labels of the last round are worth, by the labeled photos alone (`loop/evaluation/trust.py`)."""
    expected = record.results.get("expected")
    found = (expected if isinstance(expected, Mapping) else {}).get(record.main_method)
    told = []
    for name, words in (("all", "all labels with a mask of the last round"), ("used", "those it learned from")):
        figures = found.get(name) if isinstance(found, Mapping) else None
        if isinstance(figures, Mapping) and is_number(figures.get("mean")):
            ends = interval(figures.get("low"), figures.get("high"))
            sure = "" if ends == NOTHING else f" (95 % interval {ends})"
            told.append(f"{percent(figures['mean'])} % for {words}{sure}")
    if not told:
        return ""
    return f"By the labeled photos, as teachers of the burn-in label them, the mean IoU is about {', '.join(told)}."


def _is_of_main(item: Any, record: RunRecord) -> bool:
    return isinstance(item, Mapping) and item.get("method") == record.main_method and is_number(item.get("diff"))
