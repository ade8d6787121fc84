"""The same network, run the way the published code of LAVT and its successors runs it. Written from the papers.

What that means here, exactly:

- float32, eager; no autocast, no compiler. The order of memory is ours, channels last in the image encoder, of which
  a Swin has a single convolution.
- Sentences are padded to 20 tokens, however short the longest is. The text encoder is a model of its own: it is called
  first, on every image-sentence pair of the batch (in training all pairs in one call), and its output handed on.
- A pair is a sample: an image with three sentences goes through the image encoder three times. In evaluation pairs come
  one by one.
- The loss is cross-entropy over two classes at the size of the input image, to which logits are brought bilinearly,
  with weights 0.9 for the background and 1.1 for the object (LAVT, 2022). AdamW, no clipping.

Left out on both sides: dropout and stochastic depth (ours has none), data loading, and the teacher of self-training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from l2l_ray.loop.inference.inputs import Inputs
from l2l_ray.loop.training.step import TrainBatch
from l2l_ray.segmenter.model import Encoded, Segmenter, SegmenterOutput
from l2l_ray.segmenter.text import TextTokens

TEXT_TOKENS = 20
CLASS_WEIGHTS = (0.9, 1.1)  # background, object


def padded(segmenter: Segmenter, texts: list[str], device: torch.device) -> TextTokens:
    """Return tokens of texts, padded to 20."""
    tokens = segmenter.tokenize(texts).to(device)
    missing = TEXT_TOKENS - tokens.input_ids.shape[1]
    return TextTokens(F.pad(tokens.input_ids, (0, missing)), F.pad(tokens.attention_mask, (0, missing)))


def output(segmenter: Segmenter, inputs: Inputs) -> SegmenterOutput:
    """Return what the network makes of a batch of pairs."""
    device = inputs.images.device
    tokens, phrases = (padded(segmenter, texts, device) for texts in (inputs.expressions, inputs.phrases))
    text = segmenter.text(tokens)  # a model of its own, called first
    backbone = segmenter.backbone
    levels = backbone.model((inputs.images - backbone.mean) / backbone.std).feature_maps
    fused = segmenter.fusion(levels[segmenter.fusion_index], text, tokens.attention_mask)
    pyramid = segmenter.pyramid(levels, fused.feat_BCHW)
    encoded = Encoded(pyramid, fused.tokens_BLD, tokens.attention_mask, fused.match_logits_BHW)
    return segmenter.decode(encoded, inputs.proposal, inputs.prior_score, inputs.has_prior, phrases)


def loss(mask_logits: Float[Tensor, "B G G"], target: Float[Tensor, "B G G"], side: int) -> Float[Tensor, ""]:
    """Return the published loss of masks, at the size of the image."""
    logits = F.interpolate(mask_logits[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]
    classes = F.interpolate(target[:, None], (side, side), mode="nearest")[:, 0].long()
    weights = logits.new_tensor(CLASS_WEIGHTS)
    return F.cross_entropy(torch.stack([torch.zeros_like(logits), logits], dim=1), classes, weight=weights)


def step(segmenter: Segmenter, optimizer: torch.optim.Optimizer, batch: TrainBatch) -> float:
    """Take one optimiser step."""
    found = loss(output(segmenter, batch.inputs).mask_logits, batch.target, segmenter.image_size)
    optimizer.zero_grad()
    found.backward()
    optimizer.step()
    return float(found.detach())
