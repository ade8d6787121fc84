"""Batches, targets and losses of the encoder's pretraining. Targets come from boxes and attributes, never from masks.

Everything spatial is expressed as coverage, the share of a grid cell that a box covers, so one definition serves every
level. Boxes are fractions of the image, (x1, y1, x2, y2). Legend: B images, E expressions, g or G cells per side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from l2l_ray.embedded.pool import ATTRIBUTE_NAMES, Pool

ATTRIBUTE_SIZES = tuple(len(names) for names in ATTRIBUTE_NAMES.values())
# Shape and texture, in that order, are the slow ones: with equal weights a texture is still taken for plain when
# color and size are long known.
_ATTRIBUTE_WEIGHTS = (0.8, 0.3, 0.3, 1.2)
_PLAIN_WEIGHT = 0.4  # two thirds of the medium and large objects, and all small ones, are plain
CELL_CHANNELS = 1 + 4 + sum(ATTRIBUTE_SIZES)  # covered, box edges, attributes


@dataclass(frozen=True)
class Batch:
    """B images with their objects, and E expressions; `image_index` and `object_index` say of which object."""

    images: Float[Tensor, "B 3 S S"]
    attributes: Tensor  # int64 [B, 9, 4]
    boxes_xyxy: Float[Tensor, "B 9 4"]  # fractions
    texts: list[str]
    image_index: Tensor
    object_index: Tensor

    @property
    def referent_xyxy(self) -> Float[Tensor, "E 4"]:
        """The box of each expression's referent."""
        return self.boxes_xyxy[self.image_index, self.object_index]


def make_batch(pool: Pool, scenes: NDArray[np.integer], num_expressions: int, rng: np.random.Generator) -> Batch:
    """Return the scenes with `num_expressions` drawn expressions each (with repeats where a scene has fewer)."""
    first = np.searchsorted(pool.scene_index, scenes)
    last = np.searchsorted(pool.scene_index, scenes, side="right")
    kept = last > first
    scenes, first, last = scenes[kept], first[kept], last[kept]
    chosen = (
        first[:, None] + (rng.random((len(scenes), num_expressions)) * (last - first)[:, None]).astype(int)
    ).ravel()
    images = torch.from_numpy(pool.images[scenes]).permute(0, 3, 1, 2).float() / 255
    return Batch(
        images=images,
        attributes=torch.from_numpy(pool.attributes[scenes]).long(),
        boxes_xyxy=torch.from_numpy(pool.boxes_xyxy_frac[scenes]),
        texts=[pool.texts[i] for i in chosen],
        image_index=torch.arange(len(scenes)).repeat_interleave(num_expressions),
        object_index=torch.from_numpy(pool.object_index[chosen]).long(),
    )


def with_typos(texts: list[str], rng: np.random.Generator, frac: float = 0.06) -> list[str]:
    """Return the texts, a share `frac` of them with one letter dropped, doubled or swapped with the next."""
    changed = list(texts)
    for i in np.flatnonzero(rng.random(len(texts)) < frac):
        text = texts[i]
        at = int(rng.integers(0, max(1, len(text) - 1)))
        here, after = text[at : at + 1], text[at + 1 : at + 2]
        slip = (after + here, after, here + here + after)[rng.integers(3)]
        changed[i] = text[:at] + slip + text[at + 2 :]
    return changed


def box_coverage(boxes_xyxy: Float[Tensor, "N 4"], grid: int) -> Float[Tensor, "N G G"]:
    """Return the share of each grid cell that each box (fractions of the image) covers, in [0, 1]."""
    edges = torch.arange(grid + 1, dtype=torch.float32) / grid
    low, high = edges[:-1], edges[1:]

    def along(start: Tensor, stop: Tensor) -> Tensor:
        return (torch.minimum(stop[:, None], high) - torch.maximum(start[:, None], low)).clamp(min=0) * grid

    x1, y1, x2, y2 = boxes_xyxy.unbind(1)
    return along(y1, y2)[:, :, None] * along(x1, x2)[:, None, :]


def cell_owner(boxes_xyxy: Float[Tensor, "B N 4"], grid: int) -> tuple[Tensor, Tensor]:
    """Return for each cell the object that covers most of it (int64 [B, G, G]) and how much of the cell it covers."""
    batch, num, _ = boxes_xyxy.shape
    coverage = box_coverage(boxes_xyxy.flatten(0, 1), grid).view(batch, num, grid, grid)
    # Of two boxes that cover a cell alike the smaller one: a small object may lie in a large ring's box.
    area = (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])
    best = (coverage - 0.5 * area[..., None, None].clamp(max=1) * (coverage > 0)).max(1).indices
    return best, coverage.gather(1, best[:, None])[:, 0]


def dense_loss(head: nn.Module, feat: Float[Tensor, "B C g g"], batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the loss of one level's cell head and its attribute accuracy on cells that are mostly covered.

    Each part is a mean over its own cells: all for covered, those at least 40 % covered for the rest.
    """
    grid = feat.shape[-1]
    owner, coverage = cell_owner(batch.boxes_xyxy, grid)
    logits = head(feat).permute(0, 2, 3, 1).float()
    loss = F.binary_cross_entropy_with_logits(logits[..., 0], coverage)
    inside = coverage >= 0.4
    index = owner[inside]
    image = torch.arange(len(feat))[:, None, None].expand_as(owner)[inside]
    cells = logits[inside]
    loss = loss + 2 * F.smooth_l1_loss(cells[:, 1:5], _edge_offsets(batch.boxes_xyxy[image, index], inside, grid))
    truth = batch.attributes[image, index]
    accuracy = []
    for i, part in enumerate(cells[:, 5:].split(ATTRIBUTE_SIZES, dim=1)):
        loss = loss + _ATTRIBUTE_WEIGHTS[i] * F.cross_entropy(part, truth[:, i], weight=_class_weights(i, part))
        accuracy.append((part.argmax(1) == truth[:, i]).float().mean())
    return loss, torch.stack(accuracy)


def _class_weights(attribute: int, like: Tensor) -> Tensor | None:
    """Return the class weights of one attribute; only texture is unbalanced."""
    if tuple(ATTRIBUTE_NAMES)[attribute] != "texture":
        return None
    weights = like.new_ones(ATTRIBUTE_SIZES[attribute])
    weights[0] = _PLAIN_WEIGHT
    return weights


def _edge_offsets(boxes_xyxy: Tensor, inside: Tensor, grid: int) -> Tensor:
    """Return box edges relative to the cell centre, in eighths of the image."""
    _, rows, cols = inside.nonzero(as_tuple=True)
    centre = (torch.stack([cols, rows, cols, rows], dim=1) + 0.5) / grid
    return (boxes_xyxy - centre) * 8


def match_loss(match_logits: Float[Tensor, "E g g"], boxes_xyxy: Float[Tensor, "E 4"]) -> Tensor:
    """Return binary cross-entropy per cell plus cross-entropy over cells against the referent's box coverage."""
    coverage = box_coverage(boxes_xyxy, match_logits.shape[-1])
    share = (coverage / coverage.sum((1, 2), keepdim=True).clamp(min=1e-6)).flatten(1)
    return 3 * F.binary_cross_entropy_with_logits(match_logits, coverage) + 0.5 * F.cross_entropy(
        match_logits.flatten(1), share
    )


def region_loss(logits: Float[Tensor, "E G G"], boxes_xyxy: Float[Tensor, "E 4"]) -> Tensor:
    """Return cross-entropy plus Dice of the box region; the Dice is per expression, so small boxes count alike."""
    coverage = box_coverage(boxes_xyxy, logits.shape[-1])
    probs = logits.sigmoid()
    overlap = 2 * (probs * coverage).sum((1, 2)) + 1
    dice = 1 - overlap / (probs.sum((1, 2)) + coverage.sum((1, 2)) + 1)
    return 3 * F.binary_cross_entropy_with_logits(logits, coverage) + dice.mean()
