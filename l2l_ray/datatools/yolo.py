"""Masks as a data set that Ultralytics' YOLO-seg trains on: `data.yaml`, linked photos, and one text file per photo.

A line of `labels/<split>/<photo>.txt` is one mask: its class, and x, y pairs of one outline, as shares of the width and
the height. A class is a category; masks without one are of class `object`. YOLO knows one outline per object, so the
parts of a mask and the edges of its holes are joined by lines there and back, as Ultralytics' own converter joins the
parts of COCO's objects: the inside of the outline, by the even-odd rule, is the mask. Equal masks of one photo and
class (several texts of one object) are one line. A photo whose masks are all empty is left out: YOLO would learn that
nothing is there.

Photos in an object store are copied. A PNG of the stored pixels, which masks speak of, stands for what Ultralytics does
not read (GIF, AVIF) and for a photo that it would turn as EXIF says. Names are unique in a split without their folders:
`photo_2.jpg` is a second `photo.jpg`. `index.jsonl` has every record, with the exact masks and the expressions; `l2l
data import rows index.jsonl` reads it.

Source of the format: docs.ultralytics.com/datasets/segment.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Bool, Float64

from l2l_ray.data.masks import decode
from l2l_ray.data.pixels import read_header, read_rgb
from l2l_ray.datatools.record import ExportedMask, record, write_json_lines
from l2l_ray.errors import DataError
from l2l_ray.storage import StorePath, local_copy, place

ANY_CLASS = "object"
_SUFFIXES = {".jfif": ".jpg", ".gif": ".png", ".avif": ".png"}  # of what Ultralytics passes over: what it reads
_BLOCK = 256  # points whose distances to an outline are taken at once


def write_yolo(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
    """Write the data set.

    Args:
        masks: At least one.
        root: Folder that `image` in the records is relative to.
        folder: Is there and empty.
    Raises:
        DataError: No mask has a pixel.
    """
    classes = sorted({mask.category or ANY_CLASS for mask in masks})
    stems: dict[tuple[str, str], str] = {}  # of (split, photo)
    taken: set[tuple[str, str]] = set()
    lines: dict[tuple[str, str], dict[str, None]] = {}  # in order, each once
    for mask in masks:
        outline = outline_of(decode(mask.rle))
        if not len(outline):
            continue
        photo = (mask.split, mask.example.image_path)
        if photo not in stems:
            stems[photo] = _free_stem(mask.split, place(mask.example.image_path), taken)
        size = (mask.example.width_px, mask.example.height_px)
        numbers = " ".join(f"{value:.6f}" for value in (outline / size).ravel().tolist())
        lines.setdefault(photo, {})[f"{classes.index(mask.category or ANY_CLASS)} {numbers}\n"] = None
    if not lines:
        raise DataError(f"none of {len(masks)} masks has a pixel, so there is nothing for YOLO; choose another format")
    for photo, stem in stems.items():
        split, path = photo
        _give_photo(place(path), folder / "images" / split, stem)
        label = folder / "labels" / split / f"{stem}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("".join(lines[photo]), encoding="utf-8")
    _write_yaml(list(dict.fromkeys(split for split, _ in stems)), classes, folder / "data.yaml")
    write_json_lines(folder / "index.jsonl", (record(mask, root) for mask in masks))


def outline_of(mask: Bool[np.ndarray, "H W"]) -> Float64[np.ndarray, "N 2"]:
    """Return one closed outline of a mask: x, y in px, (0, 0) the upper left corner of the image.

    By the even-odd rule, the centres of the mask's pixels and of no others lie inside it. An empty mask has no point.
    """
    from contourpy import FillType, contour_generator

    padded = np.pad(mask, 1).astype(np.float64)
    filled = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, 2.0)
    rings = [points[a:b] for points, ends in zip(*filled, strict=True) for a, b in pairwise(ends.tolist())]
    whole: Float64[np.ndarray, "N 2"] = np.zeros((0, 2))
    for ring in rings:
        whole = _joined(whole, _corners(ring[:-1] - 0.5))  # the last point is the first; padding 1, half a pixel 0.5
    return whole


def _corners(ring: Float64[np.ndarray, "N 2"]) -> Float64[np.ndarray, "M 2"]:
    """Return the points at which a ring turns."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    kept: Float64[np.ndarray, "M 2"] = ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return kept


def _joined(whole: Float64[np.ndarray, "N 2"], ring: Float64[np.ndarray, "M 2"]) -> Float64[np.ndarray, "K 2"]:
    """Return an outline that goes to a ring and around it where the two are nearest, and back the same way."""
    if not len(whole):
        return ring
    best = (np.inf, 0, 0)
    for start in range(0, len(ring), _BLOCK):
        distances = ((whole[:, None] - ring[None, start : start + _BLOCK]) ** 2).sum(axis=2)
        i, j = divmod(int(distances.argmin()), distances.shape[1])
        best = min(best, (float(distances[i, j]), i, start + j))
    _, i, j = best
    return np.concatenate([whole[: i + 1], ring[j:], ring[: j + 1], whole[i:]])


def _free_stem(split: str, photo: Path, taken: set[tuple[str, str]]) -> str:
    """Return a name without its ending for a photo whose label file is its own, and take it."""
    number, stem = 1, photo.stem
    while (split, stem.lower()) in taken:
        number += 1
        stem = f"{photo.stem}_{number}"
    taken.add((split, stem.lower()))
    return stem


def _give_photo(source: Path, folder: Path, stem: str) -> None:
    """Link to a photo, or copy it: one of an object store, or a JPEG without an end, which Ultralytics would mend.

    What Ultralytics does not read, or would turn, is written anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    is_kept = not isinstance(source, StorePath)  # a copy of an object store's may go
    own, suffix = source.suffix, _SUFFIXES.get(source.suffix.lower(), source.suffix)
    source = local_copy(source)
    if not source.is_file():
        raise DataError(f"{source} cannot be read: image file not found; put it back, or choose another --format")
    if (suffix == ".png" and own.lower() != ".png") or not read_header(source).as_shown:
        read_rgb(source).save(folder / f"{stem}.png")
        return
    if own.lower() in (".jpg", ".jpeg", ".jfif"):
        with source.open("rb") as file:
            file.seek(-min(2, source.stat().st_size), os.SEEK_END)
            if file.read() != b"\xff\xd9":
                is_kept = False
    target = folder / f"{stem}{suffix}"
    if is_kept:
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)


def _write_yaml(splits: list[str], classes: list[str], path: Path) -> None:
    """Write what Ultralytics reads first: without `path`, folders are relative to this file; train and val must be."""
    train = "train" if "train" in splits else splits[0]
    val = "val" if "val" in splits else train
    note = "" if val == "val" else f"# This export has no val masks; val repeats {train}, so its figures say nothing.\n"
    tests = [f"images/{split}" for split in splits if split not in (train, val)]
    content: dict[str, Any] = {"train": f"images/{train}", "val": f"images/{val}", "names": dict(enumerate(classes))}
    content |= {"test": tests} if tests else {}
    path.write_text(note + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
