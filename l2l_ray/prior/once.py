"""Each picture of a batch is prepared and encoded once, however many questions there are about it.

Photos of a referring data set have several expressions each, and a question that is sampled is asked several times. The
processor cuts a picture into patches and the vision tower reads them, which costs more than a short answer; both give
the same for the same picture. Nothing of what the model is asked or of what it answers changes, up to rounding inside
batched matrix products.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from PIL import Image
from torch import Tensor


def encode_once(model: Any, processor: Any) -> None:
    """Make a model and its processor do so from now on: the same picture in a call is the same object.

    A model that does not encode pictures apart encodes them as before.

    Example: `encode_once(model, processor); model.generate(**processor(images=[a, b, a], text=...))`
    """
    pictures = _PicturesOnce(processor.image_processor)
    processor.image_processor = pictures
    base = model.base_model
    if hasattr(base, "get_image_features"):
        base.get_image_features = pictures.encoding(base.get_image_features)


class _PicturesOnce:
    """A picture processor that prepares each different picture once; all else is as of the one inside."""

    def __init__(self, inside: Any) -> None:
        self._inside = inside
        # Of the last call: where each different picture comes first, which of these each question is about, and how
        # many rows of `pixel_values` each of them has. Empty = as of the one inside.
        self._first: list[int] = []
        self._which: list[int] = []
        self._sizes: list[int] = []
        self._can_tell = True  # which rows are whose

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inside, name)

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        self._first, self._which, self._sizes = [], [], []
        is_flat = isinstance(images, list) and all(isinstance(image, Image.Image) for image in images)
        first, which = _different(images) if is_flat and self._can_tell else ([], [])
        if len(first) == len(which):
            return self._inside(images, *args, **kwargs)
        found = self._inside([images[i] for i in first], *args, **kwargs)
        sizes = [1] * len(first)
        if "image_grid_thw" in found:
            sizes = torch.as_tensor(found["image_grid_thw"]).prod(-1).tolist()
        elif "num_patches" in found:  # InternVL cuts a picture into tiles
            sizes = torch.as_tensor(found["num_patches"]).tolist()
        if sum(sizes) != len(found["pixel_values"]):  # such as Molmo 2's, from now on as before
            self._can_tell = False
            return self._inside(images, *args, **kwargs)
        for name, value in found.items():
            found[name] = _taken(value, sizes if name == "pixel_values" else [1] * len(first), which)
        self._first, self._which, self._sizes = first, which, sizes
        return found

    def encoding(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        """Return a model's `get_image_features` that gets each different picture of the last call once."""
        signature = inspect.signature(encode)

        @wraps(encode)  # `generate` looks at its arguments
        def encoded(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            given.update(given.pop("kwargs", {}))
            rows = [self._sizes[i] for i in self._which]
            if not rows or sum(rows) != len(given["pixel_values"]):
                return encode(*args, **kwargs)
            given["pixel_values"] = _taken(given["pixel_values"], rows, self._first)
            if given.get("image_grid_thw") is not None:
                given["image_grid_thw"] = given["image_grid_thw"][self._first]
            found = encode(**given)
            found.pooler_output = self._repeated(found.pooler_output)
            if (deep := getattr(found, "deepstack_features", None)) is not None:  # one entry per layer
                found.deepstack_features = [self._repeated(layer) for layer in deep]
            return found

        return encoded

    def _repeated(self, features: Any) -> Any:
        """Return for each question what was found of its picture."""
        if not isinstance(features, Tensor):
            return tuple(features[i] for i in self._which)
        unit = sum(self._sizes) // len(features)  # patches may have been merged into fewer tokens
        return _taken(features, [size // unit for size in self._sizes], self._which)


def _different(images: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Return where each different object comes first, and for each which of these it is."""
    numbers: dict[int, int] = {}
    first: list[int] = []
    for index, image in enumerate(images):
        if id(image) not in numbers:
            numbers[id(image)] = len(first)
            first.append(index)
    return first, [numbers[id(image)] for image in images]


def _taken(rows: Any, sizes: Sequence[int], which: Sequence[int]) -> Any:
    """Return the rows of some pictures, each of which has `sizes` of them, in a tensor, an array or a list."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    taken = [index for i in which for index in range(ends[i] - sizes[i], ends[i])]
    return [rows[index] for index in taken] if isinstance(rows, list) else rows[taken]
