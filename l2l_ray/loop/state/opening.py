"""What a run starts with, in words: the same text whoever hosts the run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from l2l_ray.config import RunConfig
from l2l_ray.loop.state.plan import VAL
from l2l_ray.loop.state.prepare import RunData
from l2l_ray.report.left_out import LEFT_OUT, STAYS
from l2l_ray.types import Example, Skip
from l2l_ray.wording import counted, file_names


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
    left_out = [skip for skip in skips if skip.kind not in STAYS]
    texts = [f"{len(data.labeled)} to learn from, {len(data.unlabeled)} unlabeled"]
    texts[0] += f" in {counted(data.num_shards(config), 'shard')}"
    texts += [f"{name} {len(rows)}" for name, rows in data.splits.items()]
    lines = [
        f"data       {config.data.dataset} ({config.data.split_by}): {_photos(data)}; {_num_left_out(data, left_out)}",
        f"texts      {', '.join(texts)}",
    ]
    lines += [f"left out   {line}" for line in _by_kind(left_out, LEFT_OUT)]
    lines += [f"note       {line}" for line in _by_kind([s for s in skips if s.kind in STAYS], STAYS)]
    lines += [f"note       {notice}" for notice in data.facts.notices]
    if data.missing_splits and data.facts.val_source == "split":
        lines.append(f"note       this data set has no {', '.join(data.missing_splits)}: left out of the table")
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


def _by_kind(skips: Sequence[Skip], words: dict[str, str]) -> Iterable[str]:
    kinds: dict[str, list[str]] = defaultdict(list)
    for skip in skips:
        kinds[skip.kind].append(skip.path)
    for kind, paths in kinds.items():
        names = f" ({file_names(paths)})" if any(paths) else ""
        yield f"{counted(len(paths), 'text')}: {words.get(kind, kind)}{names}"


def _images(examples: Sequence[Example]) -> set[int]:
    return {example.image_id for example in examples}
