"""Label Studio: pseudo-labels as pre-annotations to correct, and corrected ones back as own data.

Its brush masks are the RGBA pixels of the image, row by row, packed by the library `rle-pack` into a list of bytes. As
bits, most significant first: 32 for the number of values, 5 for the word size - 1, four times 4 for the run sizes - 1;
then, until all values are there, 1 bit (run or literal), 2 bits (which run size), that many bits for the length - 1,
and one word (run) or one word per value (literal). The mask is the alpha channel. Only runs are written here, whatever
`rle-pack` can write is read.

Sources: labelstud.io/tags/brushlabels and /guide/task_format (the JSON), the format comment of HumanSignal's converter
(Apache-2.0). The encoder and decoder are ours.

It shows pictures turned as EXIF says, so its sizes are those of the shown picture; the import knows, and an export
refuses photos whose masks are on other pixels. Regions drawn while the view was rotated by hand are refused.

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

from l2l_ray.data.json_stream import unique_keys
from l2l_ray.data.layout import BadValue, Notice, Problem, Words, finite_numbers, shown
from l2l_ray.data.masks import decode, encode
from l2l_ray.data.object_masks import cut_at_border, segmentation_rle
from l2l_ray.data.refer_files import image_size
from l2l_ray.datatools.record import KEPT
from l2l_ray.datatools.record import NO_CATEGORY as LABEL
from l2l_ray.datatools.row_files import Row
from l2l_ray.errors import DataError

LOCAL_FILES = "/data/local-files/?d="
LABELING_CONFIG = f"""<View>
  <Header value="$expression"/>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <BrushLabels name="mask" toName="image">
    <Label value="{LABEL}" background="#ff2d95"/>
  </BrushLabels>
</View>
"""
_REGIONS = ("brushlabels", "polygonlabels")  # what makes a mask; anything else beside one is a tool's prompt
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


def decode_brush(rle: Any, height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Return the mask of a brush RLE: where its alpha is at least one half.

    Args:
        rle: Bytes, as in a result's `value.rle`; anything else is refused.
        height: The result's `original_height`, px.
        width: The result's `original_width`, px.
    Raises:
        DataError: The bytes are no such RLE, or of another image size.
    """
    if not isinstance(rle, list | tuple) or not all(type(byte) is int and 0 <= byte <= 255 for byte in rle):
        raise DataError(f"brush RLE must be a list of bytes, got {shown(rle)}; export the project again as JSON")
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


def task(mask: Bool[np.ndarray, "H W"], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return one import task: the expression above the image, and the mask as a prediction to correct.

    Args:
        mask: At native size.
        record: The record of the mask (`record.py`) without the mask; it comes back with the corrected label: the
            split too, as a corrected val mask must not become training data. Label Studio can sort by its confidence.
    """
    height, width = mask.shape
    region = {
        "id": f"l2l{record['sent_id']}",
        "type": "brushlabels",
        "from_name": "mask",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": [LABEL]},
    }
    made = record["provenance"]
    version = f"{made.get('method', 'l2l')}-v{made.get('model_version', 0)}"
    # `id` is the task's own; the sentence's comes back from sent_id
    data = {**{name: value for name, value in record.items() if name != "id"}, "width": width, "height": height}
    return {
        "data": {**data, "image": LOCAL_FILES + quote(record["image"])},
        "predictions": [{"model_version": version, "score": record["confidence"], "result": [region]}],
    }


def read_label_studio(path: Path) -> list[Row]:
    """Return the corrected labels of a project's JSON export as (where, row of own data), one per annotated task.

    The annotation marked ground truth counts, else the last, of those that were not cancelled; a task without one was
    not corrected and gives no row. All brush and polygon regions of an annotation together are the mask; where nothing
    is left of it, the row says `no_target`.

    Returns:
        Rows with image (path below the document root), expression, rle or no_target, split, id, category, provenance
        and the scores of the exported label; a task that cannot be read comes as a problem.
    Raises:
        DataError: The file is no such export.
    """
    try:
        tasks = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read as JSON: {shown(error)}; export the project from Label Studio as JSON"
        ) from error
    if not isinstance(tasks, list) or not all(isinstance(t, dict) and isinstance(t.get("data"), dict) for t in tasks):
        raise DataError(
            f"{path} is no Label Studio export: expected a list of tasks with `data` and `annotations`; choose JSON, "
            "not JSON-MIN, in Label Studio; a table of your own has one JSON object per line, as .jsonl"
        )
    rows: list[Row] = []
    num_without = 0
    for number, item in enumerate(tasks):
        where = f"{path.name} task {item.get('id', number)}"
        try:
            found = _row(item, where)
            rows += [(where, one) for one in found]
            num_without += not found
        except BadValue as error:
            rows.append((where, error.at(where)))
    if num_without and num_without < len(tasks):
        have, are = ("has", "is") if num_without == 1 else ("have", "are")
        text = f"{num_without} of its {len(tasks)} tasks {have} no annotation that was submitted and {are} left out"
        rows.append((path.name, Notice(path.name, text)))
    return rows


def _row(item: Mapping[str, Any], where: str) -> list[dict[str, Any] | Problem | Notice]:
    """Return the row of a task, nothing if nobody annotated it, and what is to be said of its mask.

    Raises:
        BadValue: If the task has not the form of one.
    """
    given = _list(item.get("annotations") or [], "annotations")
    kept = [annotation for annotation in given if not annotation.get("was_cancelled")]
    if not kept:
        return []
    annotation = next((one for one in reversed(kept) if one.get("ground_truth") is True), kept[-1])
    data = item["data"]
    who = annotation.get("completed_by")
    corrected = {
        "source": "label_studio",
        "annotation": annotation.get("id"),
        "completed_by": who.get("id") if isinstance(who, dict) else who,
        "updated_at": annotation.get("updated_at"),
    }
    own_id = data.get("id") if data.get("sent_id") is None else data["sent_id"]  # the task's own number is no one's id
    row = {
        "image": _below_root(data.get("image")),
        "expression": data.get("expression"),
        "split": data.get("split"),
        "id": str(own_id) if type(own_id) is int else own_id,
        "category": data.get("category"),
        "hint": data.get("hint"),
        **{name: data.get(name) for name in KEPT},
        "provenance": {**corrected, "corrected_from": data.get("provenance")},
    }
    told: list[Problem | Notice] = []
    if any(one.get("result") != annotation.get("result") for one in kept):
        which = "the one that is ground truth" if annotation.get("ground_truth") is True else "the last one"
        told.append(Notice(f"{where} ({len(kept)})", f"its annotations differ, {which} counts"))
    try:
        mask, names, prompts = _drawn(annotation, data)
        told += _cut(annotation, where, *mask.shape)
        row |= {"rle": encode(mask)} if mask.any() else {"no_target": True, "hint": None}  # there is no place then
        if len(names) > 1:
            told.append(
                Notice(f"{where} ({', '.join(sorted(names))})", "its regions have several labels, none is used")
            )
        row |= {"category": names.pop()} if len(names) == 1 else {}
        if prompts:
            told.append(Notice(where, f"{', '.join(prompts)} beside the mask: taken for a prompt and not used"))
    except BadValue as error:  # the item stays, unlabeled
        told.append(error.at(where))
    return [{name: value for name, value in row.items() if value is not None}, *told]


def _drawn(
    annotation: Mapping[str, Any], data: Mapping[str, Any]
) -> tuple[Bool[np.ndarray, "H W"], set[str], list[str]]:
    """Return the mask that all regions make together, the labels they have, and the types of what lies beside them.

    Raises:
        BadValue: If a region is malformed, the sizes differ, or there are other regions alone.
    """
    results = _list(annotation.get("result") or [], "result")
    regions = [region for region in results if region.get("type") in _REGIONS]
    drawn = [result for result in results if "original_width" in result]  # others choose, rate or comment
    others = sorted({str(region.get("type")) for region in drawn if region not in regions})
    if others and not regions:
        expected = " or ".join(_REGIONS)
        raise BadValue("region", Words(", ".join(others)), expected, "draw the object with the labels' brush")
    if rotated := [region["image_rotation"] for region in regions if region.get("image_rotation")]:
        remedy = "turn the view back, draw it again and export again"
        raise BadValue("image_rotation", rotated[0], "0", remedy)
    if not regions and not {"height", "width"} & data.keys():
        expected = f"a region of {' or '.join(_REGIONS)}"
        raise BadValue("mask", Words("nothing drawn"), expected, "draw the object, or skip the task")
    height, width = _size(regions, data)
    mask = np.zeros((height, width), bool)
    names: set[str] = set()
    for region in regions:
        value = region.get("value")
        if not isinstance(value, dict):
            raise BadValue("value of a region", value, "an object with rle or points", "export the project again")
        mask |= _region_mask(region["type"], value, height, width)
        names |= {name for name in value.get(region["type"]) or () if isinstance(name, str)}
    return mask, names - {LABEL}, others


def _cut(annotation: Mapping[str, Any], where: str, height: int, width: int) -> list[Problem | Notice]:
    """Return a notice of each polygon of a checked annotation that reaches beyond its picture."""
    told: list[Problem | Notice] = []
    for region in annotation.get("result") or ():
        if region.get("type") == "polygonlabels":
            points = [(x * width / 100, y * height / 100) for x, y in region["value"]["points"]]
            told += cut_at_border(points, (width, height), where, "polygon")
    return told


def _size(regions: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> tuple[int, int]:
    """Return (height, width) of the image, px, as regions say it, else the task."""
    found = {(region.get("original_height"), region.get("original_width")) for region in regions}
    if not regions:
        found = {(data.get("height"), data.get("width"))}
    if len(found) != 1:
        got = Words(" and ".join(f"{width} x {height} px" for height, width in found))
        raise BadValue("image size", got, "one size for all regions of a task", "draw them on one picture")
    height, width = found.pop()
    width, height = image_size(width, height)
    return height, width


def _region_mask(kind: str, value: Mapping[str, Any], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    if kind == "brushlabels":
        try:
            return decode_brush(value.get("rle"), height, width)
        except DataError as error:
            raise BadValue("rle", error, "the brush as Label Studio writes it", "draw it again") from None
    expected = "a list of [x, y] in percent of the image, 3 or more"
    points = value.get("points")
    if not isinstance(points, list) or len(points) < 3 or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise BadValue("points", points, expected, "draw the polygon again")
    flat = finite_numbers([side for point in points for side in point], "points", expected)
    scaled = (np.asarray(flat).reshape(-1, 2) * (width / 100, height / 100)).ravel().tolist()
    return decode(segmentation_rle([scaled], width, height, strict=True))


def _list(value: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadValue(what, value, "a list of objects", "export the project again as JSON")
    return value


def _below_root(url: Any) -> Any:
    """Return the path in an address of Label Studio's local files, also of Windows; a plain path as it is.

    Raises:
        BadValue: If it is another address.
    """
    if not isinstance(url, str):
        return url
    if LOCAL_FILES in url:
        return unquote(url.partition(LOCAL_FILES)[2]).replace("\\", "/")
    if "://" in url or url.startswith(("/data/", "data:")):
        remedy = "keep the pictures in local storage, or write their paths below --images in the export"
        raise BadValue("image", url, f"{LOCAL_FILES}PATH, or a path", remedy)
    return url


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
