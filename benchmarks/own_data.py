"""The whole journey with photos of one's own: from a folder, a CSV or a JSONL to masks, corrections, and a second run.

Sixty real photos become a data set of which 12 have masks, three times: a folder with texts beside the photos, a CSV
with mask files, a JSONL with boxes for some photos that have no mask. Each is imported, checked and run; its labels are
exported in every format and imported again; ten of the least sure are "corrected" with the true mask, merged, and the
run is made again. What a person would type is what is run here, `l2l ...`, and each command's output is kept.

Counted at the end of each journey, and asserted: masks that no run used, texts that were lost, masks that did not come
back. The figures of both runs are in the file; how right the labels are is measured here, with truth that no run saw.

Usage: python benchmarks/own_data.py PHOTOS [--out benchmarks/results/own-data.json] [--only csv]
PHOTOS is a folder in REFER's layout with real photos, <folder>/refcoco/refs(smoke).p.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from l2l_ray.data.masks import decode
from l2l_ray.data.refer import ReferDataset
from l2l_ray.types import LabeledExample

ROOT = Path(__file__).resolve().parent.parent
NUM_PHOTOS, NUM_MASKS, NUM_CORRECTED = 60, 12, 10
FORMATS = ("coco", "jsonl", "parquet", "hf", "png", "labelstudio", "yolo")
SIZE = ("--preset", "smoke")  # minutes, not hours: the journey is what is measured, not the method


@dataclass(frozen=True)
class Text:
    """One photo and what it is asked for, with the truth that the journey hides from all but the first twelve."""

    photo: Path
    expression: str
    truth: LabeledExample

    @property
    def name(self) -> str:
        """The photo's file name."""
        return self.photo.name


def texts_of(photos: Path) -> list[Text]:
    """Return one text for each of sixty photos, those with masks first."""
    dataset = ReferDataset.open(photos, "refcoco", "smoke", cache_dir=Path(tempfile.mkdtemp()))
    found: dict[int, Text] = {}
    for split in dataset.splits:
        for example in dataset.labeled_examples(split)[0]:
            found.setdefault(example.image_id, Text(Path(example.image_path), example.expression, example))
    return list(found.values())[:NUM_PHOTOS]


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask as people do: 255 = object."""
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def as_folder(texts: list[Text], place: Path) -> list[str]:
    """Write photos, a text file beside each and masks beside twelve; return the words of the import."""
    for number, text in enumerate(texts):
        shutil.copy(text.photo, place)
        (place / text.name).with_suffix(".txt").write_text(text.expression + "\n")
        if number < NUM_MASKS:
            write_mask(place / f"{Path(text.name).stem}_mask.png", decode(text.truth.mask_rle))
    return ["folder", str(place)]


def as_csv(texts: list[Text], place: Path) -> list[str]:
    """Write photos, mask files and a table; return the words of the import."""
    (place / "masks").mkdir()
    with (place / "own.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "expression", "mask"])
        for number, text in enumerate(texts):
            shutil.copy(text.photo, place)
            mask = f"masks/{number}.png" if number < NUM_MASKS else ""
            if mask:
                write_mask(place / mask, decode(text.truth.mask_rle))
            table.writerow([text.name, text.expression, mask])
    return ["rows", str(place / "own.csv"), "--images", str(place)]


def as_jsonl(texts: list[Text], place: Path) -> list[str]:
    """Write photos and lines: masks as RLE, a box for every third of the others; return the words of the import."""
    lines = []
    for number, text in enumerate(texts):
        shutil.copy(text.photo, place)
        row: dict[str, Any] = {"image": text.name, "expression": text.expression}
        if number < NUM_MASKS:
            row["rle"] = text.truth.mask_rle
        elif number % 3 == 0:
            ys, xs = np.nonzero(decode(text.truth.mask_rle))
            row["box"] = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        lines.append(json.dumps(row))
    (place / "own.jsonl").write_text("\n".join(lines))
    return ["rows", str(place / "own.jsonl"), "--images", str(place)]


SOURCES = {"folder": as_folder, "csv": as_csv, "jsonl": as_jsonl}


class Journey:
    """One person's way, command by command, in a folder of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.said: list[dict[str, Any]] = []

    def l2l(self, *words: str, status: int = 0) -> str:
        """Run a command and return what it printed; another exit status than expected ends the journey."""
        started = time.monotonic()
        command = [sys.executable, "-m", "l2l_ray.cli", *words]
        environment = {**os.environ, "L2L_HOME": str(self.place / "runs"), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.place)
        printed = (done.stdout + done.stderr).replace(str(self.place), "~")
        seconds = round(time.monotonic() - started, 1)
        shown = " ".join(("l2l", *words)).replace(str(self.place), "~")
        self.said.append({"command": shown, "status": done.returncode, "seconds": seconds, "printed": printed})
        print(f"{seconds:7.1f} s  {shown}", flush=True)
        if done.returncode != status:
            raise SystemExit(f"{shown} ended with {done.returncode}, expected {status}:\n{printed}")
        return printed
