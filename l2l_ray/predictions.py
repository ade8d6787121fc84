"""What a run answers about photos, and the folder that keeps it: names that never meet, one index of everything.

A result is named after its photo, its text and eight digits that both give: two photos of one name, or two texts about
one photo, are two results, and the same photo and text again replace their own. So a stopped command goes on where it
was. `predictions.jsonl` grows by a line per item; `predictions.csv`, the same for spreadsheets, is written at the end.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from l2l_ray.data.masks import encode
from l2l_ray.errors import DataError
from l2l_ray.files import locked, replacing
from l2l_ray.jsonl import append_line, read_lines
from l2l_ray.types import PhotoText, Prior
from l2l_ray.wording import Say

OVERLAY_RGB = (255, 45, 149)
OVERLAY_OPACITY = 0.5
INDEX_FIELDS = (
    *("image", "expression", "confidence", "area_px", "area_frac", "mask", "overlay", "details", "error"),
    *("run", "method", "version", "weights_sha256", "photo_sha256"),
)
_FILES = ("mask", "overlay", "details")
_NAME_BYTES = 60  # of the photo's name and of the text in a result's name; file systems take 255 in all


def result_name(item: PhotoText) -> str:
    """Return what the files of an item are called: the same for the same photo, text and hint, and for no others."""
    words = " ".join(item.expression.split())
    place = os.fsencode(os.path.abspath(item.image_path))
    hint = b"" if item.hint is None else b"\0" + json.dumps(item.hint, sort_keys=True, default=str).encode()
    digest = hashlib.sha256(place + b"\0" + words.encode("utf-8", "surrogatepass") + hint).hexdigest()
    said = re.sub(r"\W+", "-", words.lower())
    return "-".join(part for part in (_cut(item.image_path.stem), _cut(said), digest[:8]) if part)


@dataclass(frozen=True)
class FailedPrediction:
    """A photo and text without an answer, and why.

    Example: `FailedPrediction(PhotoText(Path("12.jpg"), "left man"), "image 12.jpg cannot be read: ...")`
    """

    item: PhotoText
    error: str


@dataclass(frozen=True)
class Prediction:
    """What a run says about one photo and text.

    Example: `Predictor.from_run(run_dir).predict(Path("12.jpg"), "left man").save(Path("out"))`
    """

    item: PhotoText
    expression: str  # at most `data.max_words` words, of which the segmenter read `segmenter.max_text_tokens` tokens
    image: UInt8[np.ndarray, "H W 3"]
    mask_probs: Float32[np.ndarray, "H W"]  # at native size
    prior: Prior
    method: str
    version: int
    confidence: float  # estimated IoU of the mask with the truth, in [0, 1]; see `confidence.py`

    @cached_property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        """True = the referred object."""
        return self.mask_probs > 0.5

    @property
    def area_frac(self) -> float:
        """Share of the photo's pixels that the mask covers, in [0, 1]."""
        return float(self.mask.mean())

    def summary(self) -> dict[str, Any]:
        """Return everything but the pixels, as JSON holds it; the mask as COCO RLE."""
        return {
            "image": str(self.item.image_path),
            "expression": self.expression,
            "method": self.method,
            "version": self.version,
            "area_px": int(self.mask.sum()),
            "area_frac": self.area_frac,
            "confidence": self.confidence,
            "mask_rle": encode(self.mask),
            "prior": asdict(self.prior),
        }

    def overlay(self) -> UInt8[np.ndarray, "H W 3"]:
        """Return the image with the mask tinted."""
        tinted, mask = self.image.copy(), self.mask
        blend = tinted[mask] * (1 - OVERLAY_OPACITY) + np.array(OVERLAY_RGB) * OVERLAY_OPACITY
        tinted[mask] = np.round(blend)  # only these pixels as floats: a phone's photo would be gigabytes of them
        return tinted

    def save(self, folder: Path) -> tuple[Path, Path, Path]:
        """Write `<name>-overlay.png`, `<name>-mask.png` (255 = object) and `<name>.json`; return their paths.

        The name is that of the item (`result_name`), so nothing of another photo, text or hint is replaced.

        Raises:
            DataError: They cannot be written; the message names the file.
        """
        stem = folder / result_name(self.item)
        overlay, mask, figures = (Path(f"{stem}{ending}") for ending in ("-overlay.png", "-mask.png", ".json"))
        try:
            for path, pixels in ((overlay, self.overlay()), (mask, self.mask.astype(np.uint8) * 255)):
                with replacing(path) as temporary:
                    Image.fromarray(pixels).save(temporary, format="PNG")
            with replacing(figures) as temporary:
                temporary.write_text(json.dumps(self.summary(), indent=1))
        except OSError as error:
            raise _unwritable(folder, error) from error
        return overlay, mask, figures


class PredictionFolder:
    """A folder of results with its index; in a `with` block, which holds it and whose end writes the index in full.

    Args:
        path: The folder.
        run: Whose answers they are, as the index names it.
        weights: SHA-256 of the weights that answer: a run trained anew has other ones.
        rows: What its index holds, by name of the item.
    Example: `with PredictionFolder.open(Path("out"), "runs/mine", "5539aa") as folder: folder.add(prediction)`
    """

    def __init__(self, path: Path, run: str, weights: str, rows: dict[str, dict[str, Any]]) -> None:
        self.path, self.run, self.weights = path, run, weights
        self._rows = rows
        self._held = ExitStack()

    @classmethod
    def open(cls, path: Path, run: str, weights: str) -> PredictionFolder:
        """Make the folder, or read the index of an earlier one.

        Raises:
            DataError: Something else lies there, nothing can be written, or its index is no index.
        """
        folder = cls(path, run, weights, {})
        try:
            path.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=path):  # says now, not after an hour of work, that nothing can be written
                folder._read_index()
        except OSError as error:
            raise _unwritable(path, error) from error
        return folder

    def __enter__(self) -> PredictionFolder:
        """Hold the folder and read its index again, which another process may have written meanwhile.

        Raises:
            DataError: Another process holds it, or as `open`.
        """
        with ExitStack() as held:
            try:
                held.enter_context(locked(self._lock_path, timeout_s=0))
            except TimeoutError:
                raise DataError(
                    f"another process is writing results into {self.path}; let it end, or choose another folder"
                ) from None
            except OSError as error:
                raise _unwritable(self.path, error) from error
            self._read_index()
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._held:
            if self._rows:
                self._write_index()
            else:
                with suppress(OSError):  # it holds something else
                    self._lock_path.unlink()
                    self.path.rmdir()

    def _read_index(self) -> None:
        try:
            rows = [json.loads(line) for line in read_lines(self.index_path)]
            self._rows = {str(row["name"]): row for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.index_path} is no index of predictions: {error}; move it away, or choose another folder"
            ) from error

    @property
    def _lock_path(self) -> Path:
        return self.path / ".lock"

    @property
    def index_path(self) -> Path:
        """One JSON line per item; the last line of an item counts."""
        return self.path / "predictions.jsonl"

    @property
    def table_path(self) -> Path:
        """The same for spreadsheets."""
        return self.path / "predictions.csv"

    def has(self, item: PhotoText, method: str, version: int) -> bool:
        """Whether this version of this run has answered about these very bytes, and its files are there."""
        row = self._rows.get(result_name(item))
        wanted = {"run": self.run, "method": method, "version": version, "weights_sha256": self.weights}
        if row is None or row.get("error") or not wanted.items() <= row.items():
            return False
        return not self.lacking([row]) and row["photo_sha256"] == _sha256(item.image_path)

    def add(self, result: Prediction | FailedPrediction) -> Path | None:
        """Save a result and note it in the index; return the file of its mask.

        Raises:
            DataError: It cannot be written; the message names the file.
        """
        row = self.save(result)
        self.note(row)
        return self.path / row["mask"] if "mask" in row else None

    def save(self, result: Prediction | FailedPrediction) -> dict[str, Any]:
        """Write the files of a result and return its row of the index: for processes beside the one that writes that.

        Raises:
            DataError: They cannot be written; the message names the file.
        """
        item = result.item
        row: dict[str, Any] = {"name": result_name(item), "image": str(item.image_path), "expression": item.expression}
        if isinstance(result, FailedPrediction):
            row["error"] = result.error
        else:
            overlay, mask, details = result.save(self.path)
            row |= {"confidence": round(result.confidence, 4), "area_px": int(result.mask.sum())}
            row |= {"area_frac": round(result.area_frac, 6), "mask": mask.name, "overlay": overlay.name}
            row |= {"details": details.name, "run": self.run, "method": result.method, "version": result.version}
            row |= {"weights_sha256": self.weights, "photo_sha256": _sha256(item.image_path)}
        return row

    def note(self, row: dict[str, Any]) -> None:
        """Append a row to the index.

        Raises:
            DataError: It cannot be written.
        """
        try:
            append_line(self.index_path, row)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._rows[str(row["name"])] = row

    def lacking(self, rows: Iterable[Mapping[str, Any]]) -> list[Path]:
        """Return the files of some rows, written by other processes, that are not here."""
        files = [self.path / str(row[kind]) for row in rows for kind in _FILES if kind in row]
        return [path for path in files if not path.exists()]

    def arrange(self, items: Iterable[PhotoText]) -> None:
        """Put the rows of these items in their order, behind all others, in whatever order they were noted."""
        arranged = dict.fromkeys(name for name in map(result_name, items) if name in self._rows)
        others = [name for name in self._rows if name not in arranged]
        self._rows = {name: self._rows[name] for name in (*others, *arranged)}

    def _write_index(self) -> None:
        try:
            with replacing(self.index_path) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in self._rows.values()))
            with replacing(self.table_path) as temporary, temporary.open("w", newline="", encoding="utf-8-sig") as file:
                writer = csv.DictWriter(file, INDEX_FIELDS, extrasaction="ignore")
                writer.writeheader()
                for row in self._rows.values():
                    writer.writerow({name: _as_text(value) for name, value in row.items()})
        except OSError as error:
            raise _unwritable(self.path, error) from error


def predict_into(
    folder: PredictionFolder,
    found: Sequence[PhotoText | object],
    version: tuple[str, int],
    again: bool,
    answer: Callable[[list[PhotoText]], int] | None,
    say: Say,
) -> int:
    """Answer what a folder holds no answer of; say how many that are and what came out, problems on stderr.

    Args:
        folder: From `PredictionFolder.open`.
        found: Photos and texts, and what is wrong with others.
        version: Method and number of the version that answers.
        again: Also ask what the folder holds the answer of.
        answer: Puts the answers about items into the folder and returns how many failed; None = only say how many.
        say: Takes each line of output.
    Returns:
        Exit status: 1 when something has no answer.
    Raises:
        DataError: Something cannot be written.
        L2LError: Of `answer`.
    """
    items = [item for item in found if isinstance(item, PhotoText)]
    for problem in found:
        if not isinstance(problem, PhotoText):
            sys.stderr.write(f"{problem}\n")
    num_failed = len(found) - len(items)
    with folder:
        todo = [item for item in items if again or not folder.has(item, *version)]
        if len(todo) < len(items):
            say(f"{len(items) - len(todo)} of {len(items)} are answered already; --again asks them too")
        if answer is None:
            say(f"{len(todo)} to answer with {version[0]} version {version[1]} of {folder.run}")
            return 1 if num_failed else 0
        num_failed += answer(todo) if todo else 0
        folder.arrange(items)
    if len(found) > 1:
        index = f"; index: {folder.table_path}" if folder.table_path.exists() else ""
        say(f"{len(found) - num_failed} of {len(found)} answered{index}")
    return 1 if num_failed else 0


def _cut(text: str) -> str:
    """Return as many first characters as fit `_NAME_BYTES`."""
    while len(os.fsencode(text.encode("utf-8", "replace").decode())) > _NAME_BYTES:
        text = text[:-1]
    return text.encode("utf-8", "replace").decode().strip("-")


def _as_text(value: Any) -> Any:
    """Return a value that UTF-8 can hold: names of files may hold half a character."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # it went away: what is there of it is not of these bytes
        return ""


def _unwritable(folder: Path, error: OSError) -> DataError:
    place = error.filename or folder
    reason = error.strerror or error
    return DataError(f"cannot write {place}: {reason}; give a folder that can be written, or free some space")
