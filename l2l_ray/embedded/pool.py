"""A pool of rendered scenes with boxes, attributes and expressions: what both embedded pretrainings read.

Rendering is slower than training on the picture, so scenes are rendered once, in chunks that are files of their own:
an interrupted `build` continues with the first missing chunk, and chunk `c` depends on (seed, c) alone. The masks of
the renderer are not stored: nothing that is pretrained here may see a mask.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2l_ray.errors import ConfigError
from l2l_ray.files import replacing
from l2l_ray.randomness import numpy_generator
from l2l_ray.refshapes.expressions import expressions_for
from l2l_ray.refshapes.meanings import STYLES
from l2l_ray.refshapes.scenes import COLORS, SHAPES, SIZE_WORDS, TEXTURES, Domain, Scene, ScenePlan, render_scene

logger = logging.getLogger(__name__)

CHUNK_SCENES = 1000
MAX_OBJECTS = 9
ATTRIBUTE_NAMES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "color": COLORS,
    "size_word": SIZE_WORDS,
    "texture": TEXTURES,
}
_RENDER_PX = 128
# More twins and textures than the default, so that words matter. The MLLM sees no occlusion.
PRETRAIN_PLAN = ScenePlan(twin_frac=0.6, overlap_frac=0.0, textured_frac=0.4)


@dataclass(frozen=True)
class Pool:
    """Scenes, their objects and their expressions, as arrays.

    Args:
        images: uint8 [N, S, S, 3].
        attributes: int8 [N, 9, 4], indices into `ATTRIBUTE_NAMES` in its order; -1 where there is no object.
        boxes_xyxy_frac: float32 [N, 9, 4] of the visible part; 0 where there is no object.
        scene_index: int32 [E], scene of each expression, ascending.
        object_index: int32 [E], object of each expression.
        texts: E expressions.
    """

    images: NDArray[np.uint8]
    attributes: NDArray[np.int8]
    boxes_xyxy_frac: NDArray[np.float32]
    scene_index: NDArray[np.int32]
    object_index: NDArray[np.int32]
    texts: list[str]


def build(
    folder: Path,
    num_scenes: int,
    size_px: int,
    domain: Domain = "pretrain",
    seed: int = 0,
    plan: ScenePlan | None = PRETRAIN_PLAN,
) -> None:
    """Render the chunks that are missing below `folder`; an existing chunk is kept as it is.

    Args:
        folder: Where the chunks are; made if missing.
        num_scenes: Rounded up to whole chunks of `CHUNK_SCENES`.
        size_px: Side of the stored images, px; rendered at 128 px and reduced bilinearly, as `data` does.
        domain: Rendering domain.
        seed: Chunk c is drawn from (seed, c).
        plan: What a scene contains; None = the domain's default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for chunk in range(-(-num_scenes // CHUNK_SCENES)):
        path = folder / f"chunk{chunk:04d}.npz"
        if path.exists():
            continue
        arrays, texts = _render_chunk(numpy_generator(seed, chunk), size_px, domain, plan)
        with replacing(path) as temporary, temporary.open("wb") as file:  # np.savez would add an ending to a path
            np.savez(
                file, allow_pickle=False, **arrays, texts=np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)
            )
        logger.info("rendered %s: %d scenes, %d expressions", path.name, CHUNK_SCENES, len(texts))


def load(folder: Path, num_scenes: int | None = None) -> Pool:
    """Read the chunks below `folder` (the first ones that hold `num_scenes`, or all).

    Raises:
        ConfigError: If there is no chunk.
    """
    paths = sorted(folder.glob("chunk*.npz"))
    if num_scenes is not None:
        paths = paths[: -(-num_scenes // CHUNK_SCENES)]
    if not paths:
        raise ConfigError(f"scene pool {folder} holds no chunk*.npz; run build() on this folder first")
    chunks = []
    for path in paths:
        with np.load(path) as file:
            chunks.append({name: file[name] for name in file.files})
    counts = np.cumsum([0, *(len(chunk["images"]) for chunk in chunks)])
    return Pool(
        images=np.concatenate([chunk["images"] for chunk in chunks]),
        attributes=np.concatenate([chunk["attributes"] for chunk in chunks]),
        boxes_xyxy_frac=np.concatenate([chunk["boxes"] for chunk in chunks]),
        scene_index=np.concatenate(
            [chunk["scene_index"] + offset for chunk, offset in zip(chunks, counts[:-1], strict=True)]
        ).astype(np.int32),
        object_index=np.concatenate([chunk["object_index"] for chunk in chunks]),
        texts=[text for chunk in chunks for text in json.loads(chunk["texts"].tobytes())],
    )


def _render_chunk(
    rng: np.random.Generator, size_px: int, domain: Domain, plan: ScenePlan | None
) -> tuple[dict[str, NDArray[np.generic]], list[str]]:
    images = np.empty((CHUNK_SCENES, size_px, size_px, 3), np.uint8)
    attributes = np.full((CHUNK_SCENES, MAX_OBJECTS, len(ATTRIBUTE_NAMES)), -1, np.int8)
    boxes = np.zeros((CHUNK_SCENES, MAX_OBJECTS, 4), np.float32)
    scene_index, object_index, texts = [], [], []
    for i in range(CHUNK_SCENES):
        scene = render_scene(rng, domain, size_px=_RENDER_PX, plan=plan)
        images[i] = _shrink(scene.image, size_px)
        boxes[i, : len(scene.objects)] = scene.boxes_xyxy_px / _RENDER_PX
        for j, obj in enumerate(scene.objects):
            attributes[i, j] = [names.index(getattr(obj, name)) for name, names in ATTRIBUTE_NAMES.items()]
            for text in _expressions(scene, j, rng, domain):
                scene_index.append(i)
                object_index.append(j)
                texts.append(text)
    arrays: dict[str, NDArray[np.generic]] = {
        "images": images,
        "attributes": attributes,
        "boxes": boxes,
        "scene_index": np.array(scene_index, np.int32),
        "object_index": np.array(object_index, np.int32),
    }
    return arrays, texts


def _shrink(image: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    if image.shape[0] == size_px:
        return image
    return np.asarray(Image.fromarray(image).resize((size_px, size_px), Image.Resampling.BILINEAR))


def _expressions(scene: Scene, index: int, rng: np.random.Generator, domain: Domain) -> list[str]:
    """Return two expressions in each of two of the three styles, without repeats."""
    first = int(rng.integers(len(STYLES)))
    styles = (STYLES[first], STYLES[(first + 1) % len(STYLES)])
    found = [text for style in styles for text in expressions_for(scene, index, rng, style, domain, num=2)]
    return list(dict.fromkeys(found))
