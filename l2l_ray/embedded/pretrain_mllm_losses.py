"""Batches and losses of the MLLM's pretraining. Everything here is thrown away when the model is saved.

Why so many losses: with the answer's cross-entropy alone a model of this size is still blind after 60 k samples.
Three denser signals reach the parts that would otherwise wait for a gradient:

- `DenseHeads` on the visual tokens: for each of the 2 x 2 patches of a token, what is there and where its box ends.
- `GroundingHeads` on the language model's hidden states: which patches the expression means (at the image tokens),
  which token to look at and which box (at the last token of the prompt, where the answer starts).
- coordinates are single tokens, so their cross-entropy is spread over neighbouring values: near misses cost less.

Targets come from boxes and attributes; no mask is read. Patches are numbered in the model's own order: token by token
(rows of 8), inside a token its 2 x 2 patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2l_ray.embedded.augment import photometric
from l2l_ray.embedded.pool import ATTRIBUTE_NAMES, Pool
from l2l_ray.embedded.pretrain_mllm_model import GRID, MERGE, NUM_VISUAL, PATCH
from l2l_ray.randomness import torch_generator

_NUM_CLASSES = tuple(len(names) for names in ATTRIBUTE_NAMES.values())
_CLASS_WEIGHTS = (1.5, 1.0, 0.5, 0.5)  # shape is the hardest and the most used
_SUB = MERGE * MERGE
_SIDE = GRID // MERGE
_BOX_SCALE = 4.0


@dataclass(frozen=True)
class SceneBatch:
    """Images and what is in them.

    Args:
        patches: [B * 256, 192], what the vision tower reads.
        attributes: [B, 9, 4], -1 = no object.
        boxes: [B, 9, 4] as fractions.
    """

    patches: Float[Tensor, "P D"]
    attributes: Int[Tensor, "B O 4"]
    boxes: Float[Tensor, "B O 4"]


def patchify(images: Float[Tensor, "B S S 3"]) -> Float[Tensor, "P D"]:
    """Cut images with values in -1..1 into patches, in the order of `Qwen2VLImageProcessor`."""
    num = images.shape[0]
    blocks = images.view(num, _SIDE, MERGE, PATCH, _SIDE, MERGE, PATCH, 3)
    return blocks.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(num * GRID * GRID, 3 * PATCH * PATCH)


def scene_batch(pool: Pool, scenes: np.ndarray, rng: np.random.Generator | None) -> SceneBatch:
    """Collect scenes of a pool; a generator asks for strong photometric augmentation."""
    images = torch.from_numpy(pool.images[scenes]).permute(0, 3, 1, 2).float() / 255
    if rng is not None:
        images = photometric(images, torch_generator(int(rng.integers(2**62))))
    return SceneBatch(
        patchify(2 * images.permute(0, 2, 3, 1) - 1),
        torch.from_numpy(pool.attributes[scenes]).long(),
        torch.from_numpy(pool.boxes_xyxy_frac[scenes]).float(),
    )


def patch_centers() -> Float[Tensor, "256 2"]:
    """Return (x, y) of each patch centre as fractions, in the model's order."""
    steps = (torch.arange(GRID) + 0.5) / GRID
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([xs, ys], -1).view(_SIDE, MERGE, _SIDE, MERGE, 2)
    return grid.permute(0, 2, 1, 3, 4).reshape(GRID * GRID, 2)


def box_coverage(boxes: Float[Tensor, "N 4"]) -> Float[Tensor, "N 256"]:
    """Return the share of each patch that lies inside each box."""
    centers, half = patch_centers(), 0.5 / GRID
    low = torch.maximum(centers[None] - half, boxes[:, None, :2])
    high = torch.minimum(centers[None] + half, boxes[:, None, 2:])
    return (high - low).clamp_min(0).prod(-1) * GRID * GRID


class DenseHeads(nn.Module):
    """Linear read-outs of objectness, attributes and box edges, one set per patch of a visual token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (1, *_NUM_CLASSES, 4)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, _SUB * sum(self.sizes))

    def forward(self, tokens: Float[Tensor, "T D"], batch: SceneBatch) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and the accuracies on patches that show an object."""
        num = batch.boxes.shape[0]
        logits = self.out(self.norm(tokens)).float().view(num, NUM_VISUAL * _SUB, -1)
        present, *classes, edges = logits.split(self.sizes, -1)
        index = self._owner(batch.boxes)
        visible = index >= 0
        loss = F.binary_cross_entropy_with_logits(present.squeeze(-1), visible.float())
        rows = torch.arange(num)[:, None].expand_as(index)[visible]
        owner = index[visible]
        target = batch.attributes[rows, owner]
        stats = {}
        for i, (name, weight) in enumerate(zip(ATTRIBUTE_NAMES, _CLASS_WEIGHTS, strict=True)):
            part = classes[i][visible]
            loss = loss + weight * F.cross_entropy(part, target[:, i])
            stats[name] = (part.argmax(-1) == target[:, i]).float().mean().item()
        centers = patch_centers().expand(num, -1, -1)[visible]
        box = batch.boxes[rows, owner]
        distance = torch.cat([centers - box[:, :2], box[:, 2:] - centers], -1) * _BOX_SCALE
        edge_loss = F.l1_loss(edges[visible], distance)
        stats["edge_px"] = edge_loss.item() / _BOX_SCALE * GRID * PATCH
        return loss + 4 * edge_loss, stats

    @staticmethod
    def _owner(boxes: Float[Tensor, "B O 4"]) -> Int[Tensor, "B 256"]:
        """Return the object of the smallest box over each patch centre, -1 where there is none."""
        centers = patch_centers()[None, None]
        inside = ((centers > boxes[:, :, None, :2]) & (centers < boxes[:, :, None, 2:])).all(-1)
        area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)[..., None].expand(inside.shape)
        smallest, index = area.masked_fill(~inside, 9.0).min(1)
        return index.masked_fill(smallest > 1.5, -1)


@dataclass(frozen=True)
class Grounding:
    """What the grounding heads read and what they should say.

    Args:
        cell_hidden: [B, 64, D], hidden states at the image tokens, middle layer.
        key_hidden: [B, 64, D], the same, a later layer.
        query_hidden: [B, D], last prompt token, the same later layer.
        box_hidden: [B, D], last prompt token, last layer but one.
        boxes: [B, 4] of the referent, fractions.
    """

    cell_hidden: Float[Tensor, "B T D"]
    key_hidden: Float[Tensor, "B T D"]
    query_hidden: Float[Tensor, "B D"]
    box_hidden: Float[Tensor, "B D"]
    boxes: Float[Tensor, "B 4"]


class GroundingHeads(nn.Module):
    """Referent map, pointer and box from the language model's hidden states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell_norm, self.cell = nn.LayerNorm(width), nn.Linear(width, _SUB)
        self.query_norm, self.query = nn.LayerNorm(width), nn.Linear(width, 64)
        self.key_norm, self.key = nn.LayerNorm(width), nn.Linear(width, 64)
        self.box = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4))

    def forward(self, given: Grounding) -> tuple[Tensor, dict[str, float]]:
        """Return the weighted sum of the three losses and each of them."""
        coverage = box_coverage(given.boxes)
        cells = self.cell(self.cell_norm(given.cell_hidden)).float().flatten(1)
        positive = torch.tensor(3.0, device=cells.device)
        cell = F.binary_cross_entropy_with_logits(cells, coverage, pos_weight=positive)
        share = coverage.view(-1, NUM_VISUAL, _SUB).sum(-1)
        share = share / share.sum(-1, keepdim=True).clamp_min(1e-6)
        scores = torch.einsum(
            "bd,btd->bt", self.query(self.query_norm(given.query_hidden)), self.key(self.key_norm(given.key_hidden))
        )
        log_probs = torch.log_softmax(scores.float() / 8.0, -1)
        pointer = -(share * log_probs).sum(-1).mean()
        low_high = torch.sigmoid(self.box(given.box_hidden).float())
        box = F.l1_loss(low_high, given.boxes)
        stats = {
            "cell": cell.item(),
            "pointer": pointer.item(),
            "point_acc": (share.gather(1, log_probs.argmax(-1, keepdim=True)) > 0).float().mean().item(),
            "box_l1": box.item(),
        }
        return 2 * cell + 0.3 * pointer + 3 * box, stats


class AnswerLoss(nn.Module):
    """Cross-entropy of the answer's tokens; coordinates get targets spread over their neighbours.

    Args:
        coordinate_ids: [101], token of each multiple of ten.
        position_weights: [A], weight of each token of the answer; 0 < weight.
        is_coordinate: [A].
    """

    def __init__(self, coordinate_ids: Tensor, position_weights: Tensor, is_coordinate: Tensor) -> None:
        super().__init__()
        self.coordinate_ids, self.weights = coordinate_ids, position_weights
        self.is_coordinate = is_coordinate

    def forward(
        self, logits: Float[Tensor, "B A V"], answer: Int[Tensor, "B A"], values: Float[Tensor, "B 4"], sigma: float
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the weighted mean; `values` are exact coordinates in 0..100, `sigma` the spread in the same unit."""
        log_probs = torch.log_softmax(logits.float(), -1)
        hard = -log_probs.gather(-1, answer[..., None]).squeeze(-1)
        steps = torch.arange(len(self.coordinate_ids), device=values.device)
        spread = torch.softmax(-0.5 * ((steps - values[..., None]) / sigma) ** 2, -1)
        coordinate_log_probs = log_probs[:, self.is_coordinate][..., self.coordinate_ids]
        soft = -(spread * coordinate_log_probs).sum(-1)
        loss = hard.mean(0).clone()
        loss[self.is_coordinate] = soft.mean(0)
        picked = coordinate_log_probs.argmax(-1).float()
        stats = {
            "coord_err": (picked - values).abs().mean().item(),
            "tf_iou50": (pair_iou(picked / 100, values / 100) >= 0.5).float().mean().item(),
            "label_acc": (logits[:, -4:-2].argmax(-1) == answer[:, -4:-2]).all(-1).float().mean().item(),
        }
        return (loss * self.weights).sum(), stats


def pair_iou(first: Float[Tensor, "N 4"], second: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    """Return the intersection over union of boxes row by row."""
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    inter = (high - low).clamp_min(0).prod(-1)
    areas = (first[:, 2:] - first[:, :2]).clamp_min(0).prod(-1) + (second[:, 2:] - second[:, :2]).clamp_min(0).prod(-1)
    return inter / (areas - inter).clamp_min(1e-9)
