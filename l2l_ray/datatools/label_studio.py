"""Label Studio: pseudo-labels as pre-annotations to correct, and corrected ones back as own data.

Its brush masks are the RGBA pixels of the image, row by row, packed by the library `rle-pack` into a list of bytes. As
bits, most significant first: 32 for the number of values, 5 for the word size - 1, four times 4 for the run sizes - 1;
then, until all values are there, 1 bit (run or literal), 2 bits (which run size), that many bits for the length - 1,
and one word (run) or one word per value (literal). The mask is the alpha channel. Only runs are written here, whatever
`rle-pack` can write is read.

Sources: labelstud.io/tags/brushlabels and /guide/task_format (the JSON), the format comment of HumanSignal's converter
(Apache-2.0). The encoder and decoder are ours.

It shows pictures turned as EXIF says, so its sizes are those of the shown picture; the import knows. Regions drawn
while the view was rotated by hand are refused.

Not covered: JSON_MIN exports, which drop the annotations' structure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from jaxtyping import Bool

from l2l_ray.data.layout import BadValue, Problem
from l2l_ray.data.masks import annotation_rle, decode, encode
from l2l_ray.errors import DataError

LABEL = "referent"
LOCAL_FILES = "/data/local-files/?d="
LABELING_CONFIG = f"""<View>
  <Header value="$expression"/>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <BrushLabels name="mask" toName="image">
    <Label value="{LABEL}" background="#ff2d95"/>
  </BrushLabels>
</View>
"""
_CHANNELS = 4  # red, green, blue, alpha
_WORD_BITS = 8
_RUN_BITS = (3, 4, 8, 16)
_HALF_OPAQUE = 128  # a brush has soft edges; they belong to the mask from here on


def encode_brush(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """Return a mask as Label Studio's brush RLE: bytes, 0 to 255."""
    flat = np.ascontiguousarray(mask).ravel()
    if not flat.size:
        raise DataError(f"a mask of {mask.shape} has no pixels; give the image's own size")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(starts, flat.size)) * _CHANNELS
    bits = [f"{flat.size * _CHANNELS:032b}", f"{_WORD_BITS - 1:05b}", *(f"{size - 1:04b}" for size in _RUN_BITS)]
    longest = 1 << _RUN_BITS[-1]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        word = "1" * _WORD_BITS if flat[start] else "0" * _WORD_BITS
        whole, rest = divmod(length, longest)
        bits += [_run(longest, word)] * whole
        bits += [_run(rest, word)] if rest else []
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def decode_brush(rle: Sequence[Any], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Return the mask of a brush RLE: where its alpha is at least one half.

    Args:
        rle: Bytes, as in a result's `value.rle`; anything else is refused.
        height: The result's `original_height`, px.
        width: The result's `original_width`, px.
    Raises:
        DataError: The bytes are no such RLE, or of another image size.
    """
    try:
        bits = np.unpackbits(np.asarray(rle, dtype=np.uint8))
        values = _unpack(bits, height * width * _CHANNELS)
    except (OverflowError, TypeError, ValueError) as error:
        raise DataError(
            f"brush RLE of {len(rle)} bytes cannot be read for an image of {width} x {height} px: {error}; "
            "export the project again as JSON"
        ) from error
    alpha: Bool[np.ndarray, "H W"] = values.reshape(height, width, _CHANNELS)[..., 3] >= _HALF_OPAQUE
    return alpha


def task(
    mask: Bool[np.ndarray, "H W"],
    image: str,
    expression: str,
    sent_id: int,
    score: float,
    provenance: Mapping[str, Any],
    split: str = "train",
) -> dict[str, Any]:
    """Return one import task: the expression above the image, and the mask as a prediction to correct.

    Args:
        mask: At native size.
        image: Path of the image below Label Studio's document root.
        expression: What to look for.
        sent_id: Comes back as the row's id.
        score: In [0, 1]; Label Studio can sort by it, least sure first.
        provenance: Comes back with the corrected label.
        split: Comes back too: a corrected val mask must not become training data.
    """
    height, width = mask.shape
    region = {
        "id": f"l2l{sent_id}",
        "type": "brushlabels",
        "from_name": "mask",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": [LABEL]},
    }
    version = f"{provenance.get('method', 'l2l')}-v{provenance.get('model_version', 0)}"
    return {
        "data": {
            "image": LOCAL_FILES + quote(image),
            "expression": expression,
            "sent_id": sent_id,
            "width": width,
            "height": height,
            "provenance": dict(provenance),
            "split": split,
        },
        "predictions": [{"model_version": version, "score": score, "result": [region]}],
    }


def read_label_studio(path: Path) -> list[tuple[str, dict[str, Any] | Problem]]:
    """Return the corrected labels of a project's JSON export as (where, row of own data), one per annotated task.

    The last annotation that was not cancelled counts; a task without one was not corrected and gives no row. All brush
    and polygon regions of an annotation together are the mask; where nothing is left of it, the row says `no_target`.

    Returns:
        Rows with image (path below the document root), expression, rle or no_target, split, id, category and
        provenance; a task that cannot be read comes as a problem.
    Raises:
        DataError: The file is no such export.
    """
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as JSON: {error}; export the project from Label Studio as JSON"
        ) from error
    if not isinstance(tasks, list) or not all(isinstance(t, dict) and isinstance(t.get("data"), dict) for t in tasks):
        raise DataError(
            f"{path} is no Label Studio export: expected a list of tasks with `data` and `annotations`; choose JSON, "
            "not JSON-MIN"
        )
    rows = []
    for number, item in enumerate(tasks):
        where = f"{path.name} task {item.get('id', number)}"
        if row := _row(item, where):
            rows.append((where, row))
    return rows


def _row(item: Mapping[str, Any], where: str) -> dict[str, Any] | Problem | None:
    kept = [a for a in item.get("annotations") or [] if isinstance(a, dict) and not a.get("was_cancelled")]
    if not kept:
        return None
    annotation, data = kept[-1], item["data"]
    try:
        image, expression = _below_root(str(data["image"])), str(data["expression"])
        drawn = [r for r in annotation.get("result") or [] if "original_width" in r]  # others choose, rate or comment
        regions = [r for r in drawn if r.get("type") in ("brushlabels", "polygonlabels")]
        if len(regions) < len(drawn):
            others = sorted({str(r.get("type")) for r in drawn if r not in regions})
            raise BadValue(
                "region", ", ".join(others), "brushlabels or polygonlabels", "draw it with the labels' brush"
            )
        if rotated := {r["image_rotation"] for r in regions if r.get("image_rotation")}:
            remedy = "turn the view back, draw it again and export again"
            raise BadValue("image_rotation", rotated.pop(), "0", remedy)
        height, width = _size(regions, data)
        mask = np.zeros((height, width), bool)
        for region in regions:
            mask |= _region_mask(region, height, width)
        names = {name for r in regions for name in r["value"].get(r["type"], [])} - {LABEL}
    except BadValue as error:
        return error.at(where)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return BadValue("task", f"{type(error).__name__}: {error}", "a corrected task", "correct or remove it").at(
            where
        )
    who = annotation.get("completed_by")
    corrected = {
        "source": "label_studio",
        "annotation": annotation.get("id"),
        "completed_by": who.get("id") if isinstance(who, dict) else who,
        "updated_at": annotation.get("updated_at"),
    }
    return {
        "image": image,
        "expression": expression,
        **({"rle": encode(mask)} if mask.any() else {"no_target": True}),
        "split": str(data.get("split", "train")),
        "id": str(data.get("sent_id", item.get("id"))),
        "category": names.pop() if len(names) == 1 else "",
        "provenance": {**corrected, "corrected_from": data.get("provenance")},
    }


def _size(regions: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> tuple[int, int]:
    """Return (height, width) of the image, px, as regions say it, else the task."""
    found = {(int(r["original_height"]), int(r["original_width"])) for r in regions}
    if not found and "height" in data and "width" in data:
        found = {(int(data["height"]), int(data["width"]))}
    if len(found) != 1:
        raise DataError(f"needs one size of the image, got {sorted(found)} (height, width)")
    return found.pop()


def _region_mask(region: Mapping[str, Any], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    if region["type"] == "brushlabels":
        return decode_brush(region["value"]["rle"], height, width)
    scale = np.array([width, height]) / 100  # polygons are in percent of the image
    points = np.asarray(region["value"]["points"], dtype=np.float64) * scale
    return decode(annotation_rle([points.ravel().tolist()], height, width))


def _below_root(url: str) -> str:
    return unquote(url.partition(LOCAL_FILES)[2]) if LOCAL_FILES in url else url


def _run(length: int, word: str) -> str:
    which = next(i for i, size in enumerate(_RUN_BITS) if length <= 1 << size)
    return f"1{which:02b}{length - 1:0{_RUN_BITS[which]}b}{word}"


def _unpack(bits: np.ndarray, num_expected: int) -> np.ndarray:
    """Return the values that the bits pack.

    Raises:
        ValueError: They end too early, or hold another number of values.
    """
    text = "".join(map(str, bits.tolist()))
    place = 0

    def read(num_bits: int) -> int:
        nonlocal place
        place += num_bits
        if place > len(text):
            raise ValueError("it ends too early")
        return int(text[place - num_bits : place], 2)

    num = read(32)
    if num != num_expected:
        raise ValueError(f"it holds {num} values, expected {num_expected}")
    word_bits = read(5) + 1
    run_bits = [read(4) + 1 for _ in range(4)]
    values = np.zeros(num, dtype=np.uint32)
    done = 0
    while done < num:
        is_run = read(1)
        stop = min(num, done + 1 + read(run_bits[read(2)]))
        if is_run:
            values[done:stop] = read(word_bits)
        else:
            values[done:stop] = [read(word_bits) for _ in range(stop - done)]
        done = stop
    return values
