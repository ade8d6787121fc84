"""The whole journey with photos of one's own: from a folder, a CSV or a JSONL to masks, corrections, and a second run.

Sixty real photos become a data set of which 12 have masks, three times: a folder with texts beside the photos, a CSV
with mask files, a JSONL with boxes for some photos that have no mask. Each is imported, checked and run; its labels are
exported in every format and imported again; ten of the least sure are "corrected" with the true mask, merged, and the
run is made again. What a person would type is what is run here, `l2l ...`, and each command's time is kept.

Counted at the end of each journey, and asserted: masks that no run used, texts that were lost, masks that did not come
back. The figures of both runs are in the file; how right the labels are is measured here, with truth that no run saw.

Usage: python -m benchmarks.own_data PHOTOS [--out benchmarks/results/own-data.json] [--only csv]
PHOTOS is a folder in REFER's layout with real photos, <folder>/refcoco/refs(smoke).p.
"""

from __future__ import annotations

import argparse
import csv
import html
import json
import os
import pickle
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

from benchmarks.command import add_out, run_main, write_results
from l2l_ray.data.masks import decode
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.label_studio import encode_brush
from l2l_ray.jsonl import read_lines
from l2l_ray.loop.state.example_files import read_examples
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
        self.said.append({"command": shown, "status": done.returncode, "seconds": seconds})
        print(f"{seconds:7.1f} s  {shown}", flush=True)
        if done.returncode != status:
            raise SystemExit(f"{shown} ended with {done.returncode}, expected {status}:\n{printed}")
        return printed


def finished(words: list[str], texts: list[Text], place: Path) -> dict[str, Any]:
    """Go the whole way with one source, and return what was counted and measured."""
    journey = Journey(place)
    data = ("--root", str(place / "data"), "--dataset", "mine")
    journey.l2l("data", "import", *words, *data)
    journey.l2l("data", "check", str(place / "data" / "mine"))
    first = run(journey, texts, "first")
    came_back = exports_come_back(journey, place / "runs" / "first")
    refused = corrected(journey, texts, place, data)
    second = run(journey, texts, "second")
    lost = {name: run["texts_lost"] for name, run in (("first", first), ("second", second))}
    unused = {name: run["masks_unused"] for name, run in (("first", first), ("second", second))}
    assert not any(lost.values()) and not any(unused.values()), (lost, unused)
    assert second["masks_learned_from"] + second["masks_held_out"] == NUM_MASKS + NUM_CORRECTED
    return {
        "first_run": first,
        "masks_that_came_back": came_back,
        "changed_data": refused,
        "second_run": second,
        "commands": journey.said,
    }


def run(journey: Journey, texts: list[Text], name: str) -> dict[str, Any]:
    """Run once; return which masks and texts were used, figures on held-out photos, and how right the labels are."""
    own = ("--data.root", str(journey.place / "data"), "--data.dataset", "mine", "--data.split_by", "own")
    printed = journey.l2l("run", *SIZE, *own, "--name", name)
    folder = journey.place / "runs" / name
    sets = {file.stem: read_examples(file) for file in sorted((folder / "examples").glob("*.parquet"))}
    given = {(text.name, text.expression) for text in texts}
    used = {(Path(e.image_path).name, e.expression) for examples in sets.values() for e in examples}
    page = (folder / "report.html").read_text(encoding="utf-8")
    results = json.loads((folder / "results.json").read_text())
    num_masks = len(sets["labeled"]) + len(sets.get("val", []))
    return {
        "opening": next(line for line in printed.splitlines() if line.startswith("data ")),
        "masks_learned_from": len(sets["labeled"]),
        "masks_held_out": len(sets.get("val", [])),
        "masks_unused": num_masks_of(journey.place / "data" / "mine") - num_masks,
        "texts_lost": len(given - used),
        "unlabeled_texts_in_report": sum(e.expression in html.unescape(page) for e in sets["unlabeled"]),
        "unlabeled_texts": len(sets["unlabeled"]),
        "held_out": {row["method"]: row["splits"].get("val", {}).get("mean_iou") for row in results["rows"]},
        "labels_mean_iou": mean_iou_of_labels(journey, texts, name),
    }


def num_masks_of(dataset: Path) -> int:
    """Count the objects with a mask in a data set; one that shows nothing, as people accept it, is none."""
    return sum("ann_id" in ref for ref in refs_of(dataset))


def mean_iou_of_labels(journey: Journey, texts: list[Text], name: str) -> float:
    """Measure the run's labels, all of them, with the masks that it never saw."""
    truth = {(text.name, text.expression): decode(text.truth.mask_rle) for text in texts}
    ious = []
    for row in labels_of(journey, name):
        mask, right = decode(row["rle"]), truth[Path(row["image"]).name, row["expression"]]
        ious.append(float((mask & right).sum() / (mask | right).sum()))
    return float(np.mean(ious))


def labels_of(journey: Journey, name: str) -> list[dict[str, Any]]:
    """Export all labels of a run as JSON lines, once, and return them."""
    out = journey.place / f"labels-{name}"
    if not out.exists():
        journey.l2l("export", str(journey.place / "runs" / name), "--format", "jsonl", "--all", "--out", str(out))
    return [json.loads(line) for line in read_lines(out / "masks.jsonl")]


def exports_come_back(journey: Journey, folder: Path) -> dict[str, str]:
    """Export all labels in every format and import each again; return how many masks came back of how many.

    A mask without a pixel says nothing, and its text comes back without one: such are not counted.
    """
    found, num_whole = {}, sum(decode(row["rle"]).any() for row in labels_of(journey, folder.name))
    for kind in FORMATS:
        out, name = journey.place / f"export-{kind}", f"from-{kind}"
        journey.l2l("export", str(folder), "--format", kind, "--all", "--out", str(out))
        about = json.loads((out / "export.json").read_text())
        if kind == "labelstudio":
            accept_all(out)
        place = ("--images", about["image_root"], "--root", str(journey.place / "again"), "--dataset", name)
        journey.l2l("data", "import", *sources(kind, out), *place)
        num, num_texts = num_masks_of(journey.place / "again" / name), len(refs_of(journey.place / "again" / name))
        found[kind] = f"{num} masks of {num_whole}, {num_texts} texts of {about['num']}"
        assert (num, num_texts) == (num_whole, about["num"]), (kind, found[kind])
    return found


def refs_of(dataset: Path) -> list[Any]:
    """Return the refs of a data set."""
    refs: list[Any] = pickle.loads((dataset / "refs(own).p").read_bytes())  # noqa: S301  # written here a moment ago
    return refs


def sources(kind: str, out: Path) -> list[str]:
    """Return kind and file of the import of an export."""
    file = {
        "coco": "annotations.json", "jsonl": "masks.jsonl", "parquet": "masks.parquet", "hf": "data/*.parquet",
        "png": "index.jsonl", "yolo": "index.jsonl", "labelstudio": "project.json",
    }[kind]  # fmt: skip
    files = map(str, sorted(out.glob(file)))
    return [
        kind if kind in ("coco", "labelstudio") else "rows",
        *files,
        *(["--masks", str(out)] if kind == "png" else []),
    ]


def accept_all(out: Path, change: dict[str, np.ndarray] | None = None) -> None:
    """Do what a person does in Label Studio: accept predictions, or draw another mask; write the project's export."""
    tasks = json.loads((out / "tasks.json").read_text())
    kept = []
    for number, task in enumerate(tasks, 1):
        prediction = task.pop("predictions")[0]
        key = f"{Path(task['data']['image']).name} {task['data']['expression']}"
        if change is not None and key not in change:
            continue
        if change is not None:
            prediction["result"][0]["value"]["rle"] = encode_brush(change[key])
        kept.append({**task, "id": number, "annotations": [{"id": number, "result": prediction["result"]}]})
    (out / "project.json").write_text(json.dumps(kept))


def corrected(journey: Journey, texts: list[Text], place: Path, data: tuple[str, ...]) -> str:
    """Correct the ten least sure labels, merge them, and start the same run again; return what it said."""
    out = place / "to-correct"
    journey.l2l("export", str(place / "runs" / "first"), "--format", "labelstudio", "--all", "--out", str(out))
    truth = {f"{text.name} {text.expression}": decode(text.truth.mask_rle) for text in texts}
    tasks = sorted(json.loads((out / "tasks.json").read_text()), key=lambda task: task["predictions"][0]["score"])
    doubtful = [f"{Path(t['data']['image']).name} {t['data']['expression']}" for t in tasks[:NUM_CORRECTED]]
    accept_all(out, {key: truth[key] for key in doubtful})
    about = json.loads((out / "export.json").read_text())
    journey.l2l(
        "data", "import", "labelstudio", str(out / "project.json"), "--images", about["image_root"], *data, "--update"
    )
    own = ("--data.root", str(place / "data"), "--data.dataset", "mine", "--data.split_by", "own")
    said = journey.l2l("run", *SIZE, *own, "--name", "first", status=1)
    return said.strip().splitlines()[-1]


def main() -> None:
    """Go the three ways and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    add_out(parser, ROOT / "benchmarks" / "results" / "own-data.json")
    parser.add_argument("--only", choices=SOURCES, help="one source alone, nothing is written")
    given = parser.parse_args()
    texts, found = texts_of(given.photos), {}
    for name in [given.only] if given.only else SOURCES:
        with tempfile.TemporaryDirectory(prefix="l2l-own-") as folder:
            print(f"{name}: {len(texts)} photos, {NUM_MASKS} masks", flush=True)
            photos = Path(folder) / "photos"
            photos.mkdir()
            found[name] = finished(SOURCES[name](texts, photos), texts, Path(folder))
    if not given.only:
        write_results(given.out, {"num_photos": len(texts), "num_masks": NUM_MASKS, **found})


if __name__ == "__main__":
    run_main(main)
