"""How many labels of a run's last round are sure, and how many doubtful: by their confidences, no truth is read."""

from __future__ import annotations

from dataclasses import asdict

from l2l_ray.doubt import Doubt
from l2l_ray.loop.state.ledger import Ledger, read_columns
from l2l_ray.loop.state.run_folder import RunFolder


def label_doubt(run: RunFolder, method: str) -> dict[str, int] | None:
    """Return {"num", "sure", "doubtful"} of the labels, used or not, that a method gave in the last round.

    None where the method labels nothing.

    Raises:
        LedgerError: A shard cannot be read.
    """
    entries = Ledger(run.ledger_path).entries(method, run.config.loop.rounds - 1)
    shards = (read_columns(run.path / entry.path, ["confidence"]) for entry in entries)
    found = Doubt.of(value for shard in shards for value in shard["confidence"].to_pylist())
    return asdict(found) if found.num else None
