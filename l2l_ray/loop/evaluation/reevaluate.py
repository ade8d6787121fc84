"""Evaluates the chosen version of a finished run again: on any split it has, under any protocol.

A run reports its figures under one protocol (native size). This is for comparisons with papers that count otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from l2l_ray.data.protocols import NATIVE, protocol_named
from l2l_ray.errors import DataError
from l2l_ray.files import new_file, saying_why
from l2l_ray.loop.evaluation.evaluate import figures_of, meter_of
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.state.candidates import EVAL_SPLITS
from l2l_ray.loop.state.example_files import ExampleTable
from l2l_ray.loop.state.run_folder import open_run
from l2l_ray.metrics import PRECISION_THRESHOLDS
from l2l_ray.report.figures import interval as interval_text
from l2l_ray.report.figures import percent


@dataclass(frozen=True)
class Reevaluation:
    """The rows of a split, one per sentence (as `inference.engine.EvalPart`), and the figures made of them.

    Example: `reevaluate(Path("runs/demo"), "testA", "lavt480").figures["overall_iou"]`
    """

    rows: pd.DataFrame
    figures: dict[str, Any]
    version: str
    protocol: str

    def lines(self) -> list[str]:
        """Return the figures as text, in percent with their 95 % intervals, under the name of their protocol."""
        names = {"overall_iou": "oIoU", "mean_iou": "mIoU"}
        found = [(names[name], self.figures[name], self.figures["interval"][name]) for name in names]
        shares, sure = self.figures["precision_at"], self.figures["interval"]["precision_at"]
        found += [(f"P@{t}", shares[t], sure[t]) for t in PRECISION_THRESHOLDS]
        lines = [f"{self.version}, {len(self.rows)} sentences, protocol {self.protocol}"]
        for name, value, interval in found:
            lines.append(f"  {name:<6}{percent(value):>6}  ({interval_text(interval['low'], interval['high'])})")
        for name, value in self.figures.get("no_target", {}).items():
            if isinstance(value, float):
                lines.append(f"  {name:<12}{percent(value):>6}")
        return lines

    def save(self, path: Path) -> None:
        """Write the rows as Parquet, to a new file.

        Raises:
            DataError: A file is there, or it cannot be written.
        """
        with saying_why(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as temporary:
                self.rows.to_parquet(temporary, index=False)


def reevaluate(run_dir: Path, split: str, protocol: str = "native", device: str = "auto") -> Reevaluation:
    """Evaluate the version that the run chose on val.

    Args:
        run_dir: A finished run; its images must still be there.
        split: An evaluation split of the run.
        protocol: A key of `data.protocols.PROTOCOLS`.
        device: Where the model runs; "auto" = a GPU where there is one.
    Raises:
        ConfigError: There is no run in this folder, or no such protocol.
        CheckpointError: It has chosen no version yet, or its weights cannot be read.
        DataError: No such split, or an image is gone.
    """
    counts, run = protocol_named(protocol), open_run(run_dir)
    method, version = run.chosen_version()
    splits = [name for name in EVAL_SPLITS if run.examples_path(name).exists()]
    if split not in splits:
        raise DataError(f"{run.path} has no evaluation split {split!r}; it has {', '.join(splits) or 'none'}")
    num = len(ExampleTable(run.examples_path(split)))
    rows = pd.DataFrame(
        InferenceEngine(run.config, run.path, device).evaluate(method, version, split, 0, num, counts).rows
    )
    name = f"{run.path.name} {method} version {version} on {split}"
    figures = figures_of(meter_of(rows), no_target=counts is NATIVE)
    return Reevaluation(rows, figures, name, f"{counts.name}: {counts.description}")
