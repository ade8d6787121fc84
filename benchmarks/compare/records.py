"""What is kept of a finished row: one small JSON file, enough for every figure of the comparison.

Records are committed, so another machine, or a later session, goes on from them without the runs. A record counts as
done while its digest is that of the task: the digest covers every setting that a result depends on, the package's
version and the weights that ship with it. The code's commit is written down but is not part of it: else any commit
would make all hours of computing void. Where two compared rows come from different commits, the tables say so.

Kinds of processor round differently, so the burn-in that all rows of a seed branch from is another one on each. Rows
are compared only with rows of the same kind.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import l2l_ray
from l2l_ray.config import RunConfig
from l2l_ray.device import pick_device
from l2l_ray.errors import DataError
from l2l_ray.files import replacing

# Where and how fast, not what.
_NOT_IN_DIGEST = ("name", "run_root", "resume", "cluster")
# What a method costs; burn-in, priors and evaluation are the same for all. "folds" are shared by those that need them.
_METHOD_PHASES = ("loading", "labels", "training", "selector")


@dataclass(frozen=True)
class SplitFigures:
    """A split under the last version, and per image how many sentences it has and the sum of their IoU.

    Example: `SplitFigures({"mean_iou": 0.41}, "9f..", (3, 2), (1.2, 0.7))`
    """

    figures: dict[str, Any]  # overall_iou, mean_iou, precision_at
    images: str  # digest of the image ids, in order: rows of one data set must agree
    num_texts: tuple[int, ...]
    iou_sums: tuple[float, ...]


@dataclass(frozen=True)
class Record:
    """A finished row of one seed.

    Example: `load_record(folder, task.name)`
    """

    dataset: str
    schedule: str
    seed: int
    row: str
    digest: str
    package: str
    commit: str
    device: str
    sees_truth: bool  # the labels were made with hidden truth
    biased_prior: dict[str, Any] | None  # how priors were moved on purpose
    labeled_frac: float
    steps: int  # student steps, burn-in included
    version: int  # the last one, which all figures are of
    splits: dict[str, SplitFigures]
    val_by_version: list[float]  # mean IoU on val of version 1, 2, ...
    rounds: list[dict[str, Any]]  # the labels of each round against hidden truth
    gate_open: list[dict[str, Any]]  # share of labels used, on labeled and unlabeled images
    cpu_s: dict[str, float]  # processor seconds by phase, see `cost`
    wall_s: dict[str, float]
    processor: str = ""  # the kind that computed, see `processor`; "" = it was not written down

    def cost_s(self) -> float:
        """Return the seconds of the method: no burn-in, priors, evaluation, report or teachers of the folds.

        On a CPU they are processor seconds, on a GPU seconds of the clock.
        """
        return sum(self.seconds.get(phase, 0.0) for phase in _METHOD_PHASES)

    def folds_s(self) -> float | None:
        """Return the seconds of the folds' teachers, which rows share; None where another row may have trained some.

        A row that trained the burn-in as well was the first on it, so it trained them all.
        """
        return self.seconds.get("folds", 0.0) if "burn-in" in self.seconds else None

    def training_s(self) -> float:
        """Return the seconds of the student's steps in the rounds."""
        return self.seconds["training"]

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase: of the processor on a CPU, of the clock on a GPU."""
        return self.cpu_s if self.device == "cpu" else self.wall_s

    def mean_used_frac(self) -> float:
        """Return the share of labels that were used, mean over rounds."""
        return float(np.mean([labels["labels"]["used_frac"] for labels in self.rounds]))


@cache
def processor() -> str:
    """Name the kind of processor that computes here, such as "x86_64 AuthenticAMD 25 17 AVX512" or a GPU's name."""
    if pick_device().type == "cuda":
        return torch.cuda.get_device_name()
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    fields = dict(reversed([tuple(map(str.strip, line.split(":", 1))) for line in lines if ":" in line]))
    kind = [fields[name] for name in ("vendor_id", "cpu family", "model") if name in fields]
    return " ".join([platform.machine(), *kind, torch.backends.cpu.get_cpu_capability()])


def digest_of(config: RunConfig, oracle: str, is_biased: bool) -> str:
    """Hash what a row's result depends on."""
    content = [
        config.model_dump(mode="json", exclude=set(_NOT_IN_DIGEST)), oracle, is_biased,
        l2l_ray.__version__, _shipped_weights(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _shipped_weights() -> str:
    digest = hashlib.sha256()
    folder = Path(l2l_ray.__file__).parent / "embedded"
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def save_record(folder: Path, name: str, record: Record) -> None:
    """Write a record, atomically.

    Args:
        folder: Of all records.
        name: Of the task, as `refshapes/5pct-seed10-l2l`.
        record: What to keep.
    """
    with replacing(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(_rounded(asdict(record)), separators=(",", ":")) + "\n")


def load_record(folder: Path, name: str) -> Record | None:
    """Read a record; None where there is none.

    Raises:
        DataError: The file is damaged.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        splits = {
            split: SplitFigures(**{**found, **{k: tuple(found[k]) for k in ("num_texts", "iou_sums")}})
            for split, found in content.pop("splits").items()
        }
        if not splits or any(len(s.num_texts) != len(s.iou_sums) for s in splits.values()):
            raise ValueError("expected the figures of every image of at least one split")
        return Record(**content, splits=splits)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is no record: {error}; delete it, and the row runs again") from error


def _rounded(value: Any) -> Any:
    """Return the value with numbers to 5 digits after the point: far below what a seed changes."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return round(value, 5) if isinstance(value, float) else value
