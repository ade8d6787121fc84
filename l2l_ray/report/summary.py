"""What a run came to, in a few sentences and figures: the top of the page."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from l2l_ray.config import RunConfig, toy_models
from l2l_ray.errors import ConfigError
from l2l_ray.report.figures import NOTHING, ends_of, interval, percent, splits_of
from l2l_ray.report.record import RunRecord, is_number
from l2l_ray.wording import counted

_STATS = (("mean_iou", "mean IoU"), ("overall_iou", "overall IoU"))


def headline(record: RunRecord) -> str:
    """Return what the run learned from and what it labeled, as one or two sentences; empty where nothing says it."""
    counts = {name: _counted(record, name) for name in ("labeled", "unlabeled", "val")}
    parts = []
    if counts["labeled"]:
        parts.append(f"It learned from {counts['labeled']} with true masks")
    if counts["unlabeled"]:
        parts.append(f"{'and' if parts else 'It'} labeled {counts['unlabeled']} without")
    sentence = " ".join(parts) + "." if parts else ""
    if record.held_out and counts["val"]:
        were = "was" if counts["val"].startswith("1 photo ") else "were"
        sentence += f" {counts['val']} with true masks {were} held out to measure how good it is."
    return sentence.strip()


def toy_notice(record: RunRecord) -> str:
    """Return that the run's models were not made for its pictures, and what to do; empty where they were."""
    try:
        return toy_models(RunConfig.model_validate(record.config)) or ""
    except (ValidationError, ConfigError):  # the config of another version: the report names it where it lies
        return ""


def quality_sentence(record: RunRecord) -> str:
    """Return how the quality was measured where this is no full table: on held-out photos, or not at all."""
    if not any(map(splits_of, record.rows)):
        if not record.rows:
            return "There are no figures yet."
        return (
            "How good the masks are was not measured: no photo with a true mask was held out of training. With at "
            "least four such photos (reviewed labels do not count) a run holds a quarter of them out by itself "
            "(--data.val_from_labeled 0.25); or put some into a split called val."
        )
    if not record.held_out:
        return ""
    photos = _counted(record, "val") or "photos"
    scores = main_scores(record).get("val", {})
    ends = ends_of(scores)
    between = interval(ends.get("mean_iou.low"), ends.get("mean_iou.high"))
    sure = ", too few photos for an interval" if between == NOTHING else f", 95 % interval {between} %"
    return (
        f"Quality estimate from {photos} held out of training, which also chose the version; with so few it is rough: "
        f"mean IoU {percent(scores.get('mean_iou'))} %{sure}."
    )


def used_labels(record: RunRecord) -> str:
    """Return how many labels of the last round training used; empty where none were counted."""
    used, num = _last_labels(record)
    return "" if num is None else f"Training used {used} of the {num} labels of the last round."


def model_answers(record: RunRecord) -> str:
    """Return for how many texts the language model gave no usable box, and for how many it was not needed.

    Empty where it was not counted.
    """
    events = {str(e.get("set")): e for e in record.events if e.get("event") == "priors"}.values()
    num = sum(int(e["num"]) for e in events if is_number(e.get("num")))
    by_user = sum(int(e["by_user"]) for e in events if is_number(e.get("by_user")))
    hints = f"{counted(by_user, 'text')} had a hint, and the language model was not asked." if by_user else ""
    if not (num := num - by_user):
        return hints
    failures = [e["failures"] for e in events if isinstance(e.get("failures"), Mapping)]
    failed = sum(int(count) for found in failures for count in found.values() if is_number(count))
    if not failed:
        return f"The language model gave a usable box for each of the {num} texts. {hints}".rstrip()
    said = f"The language model gave no usable box for {failed} of {num} texts; these were used without one."
    return f"{said} {hints}".rstrip()


def stats(record: RunRecord) -> list[tuple[str, str]]:
    """Return the few figures to see first, as value and meaning: the main method's, and of its last round's labels."""
    splits = main_scores(record)
    split = main_split(splits)
    place = "held-out photos" if record.held_out and split == "val" else split
    label = record.labels.get(record.main_method, "")
    figures = [(splits.get(split, {}).get(key), f"{name}, {place}, {label}") for key, name in _STATS]
    last = _last_point(record)
    used, num = _last_labels(record)
    if num is not None:
        figures.append((last["labels.used_frac"], f"of the labels used for training: {used} of {num}, last round"))
    figures.append((last.get("hidden_truth.labels.mean_iou"), "mean IoU of the used labels with the true masks"))
    figures.append((last.get("hidden_truth.labels.wrong_object_frac"), "of the used labels on a wrong object"))
    return [(f"{percent(value)} %", text) for value, text in figures if is_number(value)]


def main_scores(record: RunRecord) -> dict[str, dict[str, Any]]:
    """Return split -> scores of the main method; empty where results.json has none."""
    row: Mapping[str, Any] = next((r for r in record.rows if r.get("method") == record.main_method), {})
    return splits_of(row)


def main_split(splits: Collection[str]) -> str:
    """Return the split whose figure comes first: val, else the first there is, else ""."""
    return "val" if "val" in splits else next(iter(splits), "")


def _last_point(record: RunRecord) -> dict[str, Any]:
    return {key: value for point in record.points_of(record.main_method) for key, value in point.items()}


def _last_labels(record: RunRecord) -> tuple[int | None, int | None]:
    last = _last_point(record)
    share, num = last.get("labels.used_frac"), last.get("labels.num")
    return (round(share * num), round(num)) if is_number(share) and is_number(num) else (None, None)


def _counted(record: RunRecord, name: str) -> str:
    sets = record.results.get("sets")
    found = sets.get(name) if isinstance(sets, Mapping) else None
    images, texts = (found.get(key) if isinstance(found, Mapping) else None for key in ("images", "texts"))
    if not (is_number(images) and is_number(texts) and texts):
        return ""
    return f"{counted(images, 'photo')} ({counted(texts, 'text')})"
