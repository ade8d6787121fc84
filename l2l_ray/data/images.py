"""From examples to batches: decoded images within a memory bound, masks on the grid, and which items a batch holds.

`ImageStore` keeps each image once, as the S x S bytes the segmenter sees, so an epoch decodes nothing that fits the
bound. Decoding runs in threads (Pillow releases the interpreter lock). An image is turned into RGB (`data.pixels`) and
squashed to S x S, not cropped (as LAVT), by Pillow's bilinear filter, which averages when it shrinks.

Which items a batch holds is a pure function of (seed, stream, step): `batch_indices` walks through one random order of
all items per epoch. Every worker computes the global batch and takes every `world`-th item of it, so the number of
workers does not change what is trained on.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from l2l_ray.data.masks import grid_masks
from l2l_ray.data.pixels import BadPicture, read_rgb
from l2l_ray.errors import DataError
from l2l_ray.randomness import keyed_permutation, sample_key
from l2l_ray.types import Example, LabeledExample, Skip

logger = logging.getLogger(__name__)

AnyExample = TypeVar("AnyExample", bound=Example)
Pixels = UInt8[np.ndarray, "3 S S"]


class ImageStore:
    """Decodes and keeps images; safe to use from several threads.

    Example: `ImageStore(64, cache_mb=512).get([example.image_path for example in batch])`
    """

    def __init__(self, image_size: int, cache_mb: int, num_threads: int = 2) -> None:
        """Set up an empty store.

        Args:
            image_size: S, side of the squashed images, px.
            cache_mb: Bound of the decoded bytes kept, MiB; the least recently used images go first.
            num_threads: Threads that decode.
        """
        self.image_size = image_size
        self._max_bytes = cache_mb * 2**20
        self._cache: OrderedDict[str, Pixels] = OrderedDict()
        self._pending: dict[str, Future[Pixels]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="images")

    @property
    def cached_bytes(self) -> int:
        """Bytes of the images kept now."""
        return len(self._cache) * self._image_bytes

    def get(self, paths: Sequence[str]) -> Float[Tensor, "B 3 S S"]:
        """Return images in [0, 1], in the order of `paths`.

        Args:
            paths: Image files; the same one may come several times.
        Raises:
            BadPicture: If a file is missing or cannot be decoded; names the path.
        """
        futures = self._start(dict.fromkeys(paths))
        known = {
            path: futures[path].result() if path in futures else self._cached_or_decoded(path)
            for path in dict.fromkeys(paths)
        }
        return torch.from_numpy(np.stack([known[path] for path in paths])).float().div_(255)

    def prefetch(self, paths: Iterable[str]) -> None:
        """Start decoding in the background what is not kept yet; a later `get` picks it up, and reports any error."""
        self._start(dict.fromkeys(paths))

    def check(self, examples: Sequence[AnyExample]) -> tuple[list[AnyExample], list[Skip]]:
        """Return the examples whose image is usable, and a `Skip` for each other one.

        Every image is decoded in full once, which fills the cache as far as it goes. Kinds: `missing_image`,
        `truncated_image` (there, but not decodable to its end), `size_mismatch` (not the size that the annotations
        speak of).
        """
        paths = list(dict.fromkeys(example.image_path for example in examples))
        found = dict(zip(paths, self._pool.map(self._probe, paths), strict=True))
        usable: list[AnyExample] = []
        skips: list[Skip] = []
        for example in examples:
            size = found[example.image_path]
            if isinstance(size, BadPicture):
                skips.append(Skip(size.kind, example.sent_id, example.image_path, size.reason))
            elif size != (example.width_px, example.height_px):
                reason = f"file is {size[0]} x {size[1]} px, annotations say {example.width_px} x {example.height_px}"
                skips.append(Skip("size_mismatch", example.sent_id, example.image_path, reason))
            else:
                usable.append(example)
        if skips:
            first = f"{skips[0].path}: {skips[0].reason}"
            logger.warning(
                "%d of %d texts have no usable photo and are left out; first: %s", len(skips), len(examples), first
            )
        return usable, skips

    def close(self) -> None:
        """Stop the threads; the store cannot decode any more."""
        self._pool.shutdown(cancel_futures=True)

    def _start(self, paths: Iterable[str]) -> dict[str, Future[Pixels]]:
        """Make sure each path is kept or being decoded; return the futures of the latter."""
        futures = {}
        with self._lock:
            for path in paths:
                if path in self._cache:
                    self._cache.move_to_end(path)
                    continue
                if path not in self._pending:
                    self._pending[path] = self._pool.submit(self._decode_and_keep, path)
                futures[path] = self._pending[path]
        return futures

    def _decode_and_keep(self, path: str) -> Pixels:
        try:
            pixels, _ = self._decode(path)
            self._keep(path, pixels, evict=True)
            return pixels
        finally:
            with self._lock:
                self._pending.pop(path, None)

    def _cached_or_decoded(self, path: str) -> Pixels:
        with self._lock:
            pixels = self._cache.get(path)
        # Another thread may have pushed it out since `_start` saw it.
        return self._decode(path)[0] if pixels is None else pixels

    def _probe(self, path: str) -> tuple[int, int] | BadPicture:
        try:
            pixels, size = self._decode(path)
        except BadPicture as error:
            return error
        # Without eviction: with a small bound, the first images are as good to keep as the last.
        self._keep(path, pixels, evict=False)
        return size

    def _decode(self, path: str) -> tuple[Pixels, tuple[int, int]]:
        """Return the squashed RGB bytes and the (width, height) before."""
        image = read_rgb(path)  # as stored, which is what masks and boxes of a data set speak of
        return squashed(image, self.image_size), image.size

    def _keep(self, path: str, pixels: Pixels, evict: bool) -> None:
        with self._lock:
            room = self._max_bytes // self._image_bytes
            if path in self._cache or room < 1 or (len(self._cache) >= room and not evict):
                return
            while len(self._cache) >= room:
                self._cache.popitem(last=False)
            self._cache[path] = pixels

    @property
    def _image_bytes(self) -> int:
        return 3 * self.image_size**2


def squashed(image: Image.Image, side: int) -> Pixels:
    """Return an RGB image as the bytes that the segmenter sees."""
    square = image.resize((side, side), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


class LabeledSet:
    """Labeled examples with their masks as coverage on the grid.

    The masks of all sentences of a ref are stored once. Example: `examples, masks =
    labeled.take(batch_indices(len(labeled), 16, 0, "labeled", 5))`
    """

    def __init__(self, examples: Sequence[LabeledExample], grid: int) -> None:
        """Compute the grid masks.

        Args:
            examples: Labeled examples, in an order that must be the same on every worker.
            grid: G, cells per side.
        """
        self.examples = list(examples)
        self.grid = grid
        rows = {(*e.mask_rle["size"], e.mask_rle["counts"]): e.mask_rle for e in self.examples}
        row_of = {key: row for row, key in enumerate(rows)}
        self._masks = torch.from_numpy(grid_masks(list(rows.values()), grid))
        self._rows = [row_of[*e.mask_rle["size"], e.mask_rle["counts"]] for e in self.examples]

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def masks(self) -> Float[Tensor, "N G G"]:
        """Coverage in [0, 1] of every example's mask; made anew at each call."""
        return self._masks[self._rows]

    def take(self, indices: Sequence[int]) -> tuple[list[LabeledExample], Float[Tensor, "B G G"]]:
        """Return the examples at these positions and their coverage masks in [0, 1], on the CPU."""
        return [self.examples[i] for i in indices], self._masks[[self._rows[i] for i in indices]]


def batch_indices(num_items: int, batch: int, seed: int, stream: str, step: int) -> list[int]:
    """Return the global batch of a step: the next `batch` positions of an endless shuffle.

    Each epoch is a new permutation of all items, drawn from the seed, the stream and the epoch's number; a batch may
    span two, and then hold an item twice. A worker takes `indices[rank::world]`.

    Args:
        num_items: Size of the set, at least 1.
        batch: Global batch size.
        seed: Seed of the run.
        stream: What is drawn, such as "labeled" or "unlabeled"; streams are independent.
        step: Step from 0.
    Raises:
        DataError: If the set is empty.
    """
    if num_items < 1:
        raise DataError(f"cannot draw a batch of {stream!r} from 0 items; check the split and the skipped items")
    positions = range(step * batch, (step + 1) * batch)
    return [int(_epoch_order(num_items, seed, stream, at // num_items)[at % num_items]) for at in positions]


@lru_cache(maxsize=16)
def _epoch_order(num_items: int, seed: int, stream: str, epoch: int) -> Int64[np.ndarray, " N"]:
    return keyed_permutation(sample_key(seed, "epoch", stream, epoch), num_items)
