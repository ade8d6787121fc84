"""What a run starts with, in words: the same text whoever hosts the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from l2l_ray.config import RunConfig
from l2l_ray.loop.state.plan import VAL
from l2l_ray.loop.state.prepare import RunData, missing_splits
from l2l_ray.report.left_out import STAYS, left_out
from l2l_ray.types import Example, Skip
from l2l_ray.wording import counted


def opening_text(config: RunConfig, data: RunData, skips: Sequence[Skip]) -> str:
    """Say what the run works on, and what it leaves out and why.

    Args:
        config: The run's config.
        data: Its example sets.
        skips: `RunFolder.skips` of the run.
    Example:
        `data       mine (own): 12 labeled (9 to learn from, 3 held out), 48 unlabeled; 0 left out`, then lines on
        texts, on what was left out, and what else should be known.
    """
    gone = [skip for skip in skips if skip.kind not in STAYS]
    texts = [f"{len(data.labeled)} to learn from, {len(data.unlabeled)} unlabeled"]
    texts[0] += f" in {counted(data.num_shards(config), 'shard')}"
    texts += [f"{name} {len(rows)}" for name, rows in data.splits.items()]
    lines = [
        f"data       {config.data.dataset} ({config.data.split_by}): {_photos(data)}; {_num_left_out(data, gone)}",
        f"texts      {', '.join(texts)}",
    ]
    for entry in left_out([asdict(skip) for skip in skips], config.data.dataset):
        names = f" ({entry.names})" if entry.files else ""
        begin = "note    " if entry.stays else "left out"
        lines.append(f"{begin}   {counted(entry.num, 'text')}: {entry.reason}{names}")
    lines += [f"note       {notice}" for notice in data.facts.notices]
    if (missing := missing_splits(data.splits)) and data.facts.val_source == "split":
        lines.append(f"note       this data set has no {', '.join(missing)}: left out of the table")
    return "\n".join(lines)


def _photos(data: RunData) -> str:
    learned, unlabeled = _images(data.labeled), _images(data.unlabeled)
    held_out = _images(data.splits[VAL]) if data.facts.val_source == "labeled" else set()
    parts = f" ({len(learned)} to learn from, {len(held_out)} held out)" if held_out else ""
    return f"{len(learned | held_out)} labeled{parts}, {len(unlabeled - learned - held_out)} unlabeled"


def _num_left_out(data: RunData, skips: Sequence[Skip]) -> str:
    """Count photos that are left out altogether, and single texts of others."""
    kept = {row.image_path for name in data.prior_order for row in data.examples(name)}
    gone = {skip.path for skip in skips} - kept
    texts = {skip.sent_id for skip in skips if skip.path in kept}
    return f"{len(gone)} left out" + (f", and {counted(len(texts), 'text')} of other photos" if texts else "")


def _images(examples: Sequence[Example]) -> set[int]:
    return {example.image_id for example in examples}
