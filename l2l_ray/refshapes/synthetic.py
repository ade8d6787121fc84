"""RefShapes, RefShapes+ and RefShapesg: a procedural benchmark written in the on-disk layout of REFER.

This file decides which scenes and which of their objects make up each split, and writes them so that the loader of the
real data sets reads them:

    <root>/images/<dataset>/*.jpg
    <root>/<dataset>/instances.json     COCO; every object is annotated, masks are compressed RLE, categories are shapes
    <root>/<dataset>/refs(l2l).p        pickled list of refs with their sentences
    <root>/<dataset>/refshapes.json     the arguments and counts; written last, so it stands only beside a complete set

The three sets differ in their expressions as RefCOCO, RefCOCO+ and RefCOCOg do (see `expressions`). The splits differ
in kind as RefCOCO's do: val is like train; testA refers to round shapes among many of the same class; testB refers to
angular shapes under more occlusion and clutter. No image is shared by two splits. Every image depends only on
(seed, dataset, split, image number), so a larger set begins with the images of a smaller one.
"""

import io
import json
import logging
import pickle
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_rle

from l2l_ray.errors import DataError
from l2l_ray.files import replacing
from l2l_ray.randomness import numpy_generator
from l2l_ray.refshapes.expressions import expressions_for
from l2l_ray.refshapes.meanings import Style
from l2l_ray.refshapes.scenes import CATEGORY_IDS, DEFAULT_PLANS, SHAPES, Domain, Scene, ScenePlan, render_scene

logger = logging.getLogger(__name__)

STYLE_OF_DATASET: dict[str, Style] = {"refshapes": "refcoco", "refshapes+": "refcoco+", "refshapesg": "refcocog"}
SPLIT_BY = "l2l"
ROUND_SHAPES = ("circle", "ring", "heart", "crescent")
ANGULAR_SHAPES = tuple(shape for shape in SHAPES if shape not in ROUND_SHAPES)

_COMMON = DEFAULT_PLANS["refshapes"]
SPLIT_PLANS: dict[str, ScenePlan] = {
    "train": _COMMON,
    "val": _COMMON,
    "testA": replace(_COMMON, num_objects=(5, 9), twin_frac=0.85, focus_shapes=ROUND_SHAPES),
    "testB": replace(_COMMON, num_objects=(5, 9), overlap_frac=0.7, num_clutter=12, focus_shapes=ANGULAR_SHAPES),
}

# Raised whenever the same arguments would give other files.
_FORMAT = 1
_REFS_PER_IMAGE = (3, 2, 4)
_MIN_REFERRED_PX = 30


def write_refshapes(
    root: Path,
    dataset: str = "refshapes",
    seed: int = 0,
    num_train_refs: int = 4000,
    num_eval_refs: int = 500,
    size_px: int = 128,
) -> Path:
    """Write one of the three data sets, unless it is already there.

    Args:
        root: Data root; created if missing.
        dataset: "refshapes", "refshapes+" or "refshapesg".
        seed: Same arguments, same bytes.
        num_train_refs: Referred objects in train, about three per image.
        num_eval_refs: Referred objects in each of val, testA and testB.
        size_px: Nominal image side; height and width vary by up to 12.5 % around it.
    Returns:
        The folder `<root>/<dataset>`.
    Raises:
        DataError: If the name is unknown, or the folder holds a set written with other arguments.
    """
    if dataset not in STYLE_OF_DATASET:
        raise DataError(f"unknown procedural dataset {dataset!r}, expected one of {sorted(STYLE_OF_DATASET)}")
    if min(num_train_refs, num_eval_refs) < 1:
        raise DataError(
            f"num_train_refs and num_eval_refs must be at least 1, got {num_train_refs} and {num_eval_refs}"
        )
    arguments = {
        "format": _FORMAT, "dataset": dataset, "seed": seed,
        "num_train_refs": num_train_refs, "num_eval_refs": num_eval_refs, "size_px": size_px,
    }  # fmt: skip
    folder = root / dataset
    images = root / "images" / dataset
    manifest = folder / "refshapes.json"
    if manifest.exists():
        _check_manifest(manifest, images, arguments)
        return folder

    start_s = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    rows = _Rows()
    for split in SPLIT_PLANS:
        num_refs = num_train_refs if split == "train" else num_eval_refs
        for sample in draw_samples(dataset, seed, split, num_refs, size_px):
            _write(images / sample.file_name, sample.jpeg)
            rows.add(sample, split)
    _write(folder / "instances.json", json.dumps(rows.instances()).encode())
    _write(folder / f"refs({SPLIT_BY}).p", pickle.dumps(rows.refs, protocol=4))
    _write(manifest, json.dumps({"arguments": arguments, "counts": rows.counts()}, indent=2).encode())
    logger.info("wrote %s (%s) in %.1f s", dataset, rows.counts(), time.monotonic() - start_s)
    return folder


def _check_manifest(manifest: Path, images: Path, arguments: dict[str, Any]) -> None:
    written = json.loads(manifest.read_text())["arguments"]
    if written != arguments:
        raise DataError(
            f"{manifest} says the set was written with {written}, but {arguments} was asked for; "
            f"use another root, or delete {manifest.parent} and {images} to write it anew"
        )


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:  # two processes may write the same set; both write the same bytes
        temporary.write_bytes(content)


# ---------------------------------------------------------------------------------------------------------------------
# Samples


@dataclass(frozen=True)
class Sample:
    """One image with its annotated objects and the expressions for the referred ones (object index → raw texts)."""

    file_name: str
    jpeg: bytes
    scene: Scene
    expressions: dict[int, list[str]]


def draw_samples(dataset: str, seed: int, split: str, num_refs: int, size_px: int) -> Iterator[Sample]:
    """Yield the images of a split until so many objects are referred to; arguments as in `write_refshapes`."""
    splits, datasets = list(SPLIT_PLANS), list(STYLE_OF_DATASET)
    for number, wanted in enumerate(cycle(_REFS_PER_IMAGE)):
        if num_refs <= 0:
            return
        rng = numpy_generator(seed, datasets.index(dataset), splits.index(split), number)
        # Drawn to the pattern's count first, so that the scene stays the same when the last image is cut short.
        scene, expressions = _draw_referred(rng, STYLE_OF_DATASET[dataset], SPLIT_PLANS[split], wanted, size_px)
        expressions = dict(list(expressions.items())[:num_refs])
        num_refs -= len(expressions)
        yield Sample(f"{split}_{number:06d}.jpg", _encode_jpeg(scene.image), scene, expressions)


def _draw_referred(
    rng: np.random.Generator, style: Style, plan: ScenePlan, num_refs: int, size_px: int
) -> tuple[Scene, dict[int, list[str]]]:
    """Draw scenes until one has `num_refs` objects that can be referred to."""
    domain: Domain = "refshapes"
    while True:
        height, width = (int(size_px * steps) // 16 for steps in rng.integers(14, 19, 2))
        scene = render_scene(rng, domain, (height, width), plan)
        expressions: dict[int, list[str]] = {}
        for index in _order_by_interest(rng, scene, plan):
            texts = expressions_for(scene, index, rng, style, domain, num=int(rng.integers(2, 5)))
            if texts:
                expressions[index] = texts
            if len(expressions) == num_refs:
                return scene, expressions


def _order_by_interest(rng: np.random.Generator, scene: Scene, plan: ScenePlan) -> list[int]:
    """Return the objects to try, in a random order that favors those with look-alikes and the plan's shapes."""
    objects = scene.objects
    large_enough = [i for i in range(len(objects)) if scene.masks[i].sum() >= _MIN_REFERRED_PX]
    weights = []
    for i in large_enough:
        same_shape = sum(o.shape == objects[i].shape for o in objects) > 1
        same_color = sum(o.color == objects[i].color for o in objects) > 1
        weights.append(
            (5 if same_shape else 1) * (3 if same_color else 1) * (8 if objects[i].shape in plan.focus_shapes else 1)
        )
    # Efraimidis and Spirakis 2006: sorting by u ** (1 / weight) draws without replacement in proportion to the weights.
    keys = rng.random(len(weights)) ** (1 / np.array(weights, dtype=float))
    return [large_enough[i] for i in np.argsort(-keys)]


def _encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# Rows of the files


class _Rows:
    """The rows of instances.json and refs(l2l).p; ids count from 1 in writing order."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.refs: list[dict[str, Any]] = []
        self._num_sentences = 0

    def add(self, sample: Sample, split: str) -> None:
        height, width = sample.scene.image.shape[:2]
        image_id = len(self.images) + 1
        self.images.append({"id": image_id, "file_name": sample.file_name, "height": height, "width": width})
        first_ann_id = len(self.annotations) + 1
        for index in range(len(sample.scene.objects)):
            self.annotations.append(
                {"id": first_ann_id + index, "image_id": image_id, **_annotation(sample.scene, index)}
            )
        for index, texts in sample.expressions.items():
            sentences = [self._sentence(text) for text in texts]
            self.refs.append(
                {
                    "ref_id": len(self.refs) + 1,
                    "ann_id": first_ann_id + index,
                    "category_id": sample.scene.objects[index].category_id,
                    "image_id": image_id,
                    "file_name": sample.file_name,
                    "split": split,
                    "sent_ids": [sentence["sent_id"] for sentence in sentences],
                    "sentences": sentences,
                }
            )

    def _sentence(self, raw: str) -> dict[str, Any]:
        self._num_sentences += 1
        tokens = re.findall(r"[a-z0-9]+", raw.lower())
        return {"sent_id": self._num_sentences, "raw": raw, "sent": " ".join(tokens), "tokens": tokens}

    def instances(self) -> dict[str, Any]:
        categories = [{"id": CATEGORY_IDS[shape], "name": shape, "supercategory": "shape"} for shape in SHAPES]
        return {
            "info": {"description": "RefShapes, procedural"},
            "images": self.images,
            "annotations": self.annotations,
            "categories": categories,
        }

    def counts(self) -> dict[str, int]:
        return {
            "images": len(self.images),
            "annotations": len(self.annotations),
            "refs": len(self.refs),
            "expressions": self._num_sentences,
        }


def _annotation(scene: Scene, index: int) -> dict[str, Any]:
    """Return the COCO fields of an object's visible mask; the box is (x, y, width, height) in pixels."""
    rle = coco_rle.encode(np.asfortranarray(scene.masks[index], dtype=np.uint8))
    x1, y1, x2, y2 = (float(edge) for edge in scene.boxes_xyxy_px[index])
    return {
        "category_id": scene.objects[index].category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "segmentation": {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")},
        "area": int(scene.masks[index].sum()),
        "iscrowd": 0,
    }
