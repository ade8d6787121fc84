"""Use a finished run: one image and one expression in, a mask out, with its confidence and the prior behind it.

The same steps as evaluation: the frozen MLLM is asked, its answer becomes a proposal, the run's best teacher (chosen on
val) predicts on the grid, and the logits are brought to the image's own size. No selector is involved: it decides what
to train on, not what to answer.

Not covered: batches (see `loop.inference.engine`) and serving.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from l2l_ray.confidence import estimated_iou
from l2l_ray.config import RunConfig, read_config
from l2l_ray.data.images import ImageStore
from l2l_ray.data.masks import encode, grid_logits_to_native
from l2l_ray.device import pick_device
from l2l_ray.errors import DataError
from l2l_ray.loop.inference.inputs import ExampleSet, read_known_scores
from l2l_ray.loop.inference.networks import load_segmenter
from l2l_ray.loop.inference.teacher import predict
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.mllm import MllmIdentity, MllmPrior, make_prior
from l2l_ray.prior.proposal import Proposer
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.types import Example, Prior

OVERLAY_RGB = (255, 45, 149)
OVERLAY_OPACITY = 0.5


@dataclass(frozen=True)
class Prediction:
    """What a run says about one image-expression pair.

    Example: `Predictor.from_run(run_dir).predict("12.jpg", "left man").save("out")`
    """

    image_path: Path
    expression: str
    image: UInt8[np.ndarray, "H W 3"]
    mask_probs: Float32[np.ndarray, "H W"]  # at native size
    prior: Prior
    method: str
    version: int

    @property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        """True = the referred object."""
        return self.mask_probs > 0.5

    @property
    def confidence(self) -> float:
        """Estimated IoU of the mask with the truth, in [0, 1]; not calibrated, see confidence.py."""
        return float(estimated_iou(torch.from_numpy(self.mask), torch.from_numpy(self.mask_probs)))

    def summary(self) -> dict[str, Any]:
        """Return everything but the pixels, as JSON holds it; the mask as COCO RLE."""
        return {
            "image": str(self.image_path),
            "expression": self.expression,
            "method": self.method,
            "version": self.version,
            "area_px": int(self.mask.sum()),
            "confidence": self.confidence,
            "mask_rle": encode(self.mask),
            "prior": asdict(self.prior),
        }

    def overlay(self) -> UInt8[np.ndarray, "H W 3"]:
        """Return the image with the mask tinted."""
        tint = np.where(self.mask[..., None], OVERLAY_OPACITY, 0.0)
        return np.asarray(np.round(self.image * (1 - tint) + np.array(OVERLAY_RGB) * tint), np.uint8)

    def save(self, folder: Path) -> tuple[Path, Path, Path]:
        """Write `<image>-overlay.png`, `<image>-mask.png` (255 = object) and `<image>.json`; return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / self.image_path.stem
        overlay, mask, figures = (Path(f"{stem}{ending}") for ending in ("-overlay.png", "-mask.png", ".json"))
        Image.fromarray(self.overlay()).save(overlay)
        Image.fromarray(self.mask.astype(np.uint8) * 255).save(mask)
        figures.write_text(json.dumps(self.summary(), indent=1))
        return overlay, mask, figures


class Predictor:
    """A run's best version, loaded. Use `Predictor.from_run`.

    Args:
        config: The run's config.
        segmenter: With weights, on its device.
        mllm: The frozen MLLM of the same config.
        known_scores: Of the labeled set's priors; see `loop.inference.inputs.ExampleSet`.
        method: Whose version it is.
        version: Which one.
    """

    def __init__(
        self,
        config: RunConfig,
        segmenter: Segmenter,
        mllm: MllmPrior,
        known_scores: Sequence[float],
        method: str,
        version: int,
    ) -> None:
        self._config = config
        self._segmenter = segmenter.eval()
        self._mllm = mllm
        self._known_scores = known_scores
        self._method, self._version = method, version
        self._images = ImageStore(config.segmenter.image_size, config.data.image_cache_mb, upright=True)
        self._proposer = Proposer(config.prior)

    @classmethod
    def from_run(cls, run_dir: Path) -> Predictor:
        """Load the main method's version that was best on val.

        Raises:
            ConfigError: There is no run in this folder.
            CheckpointError: The run is not finished, or its weights cannot be read.
            DataError: The priors of its labeled set cannot be read.
        """
        config = read_config(run_dir / "config.yaml")
        run = RunFolder(run_dir, config)
        method, version = run.chosen_version()
        weights = run.version_dir(method, version) / "teacher.safetensors"
        segmenter = load_segmenter(config.segmenter, weights, pick_device())
        known = read_known_scores(run.priors_path("labeled"))
        mllm = MllmPrior.load(config.prior)
        return cls(config, segmenter, mllm, known, method, version)

    def predict(self, image_path: Path, expression: str) -> Prediction:
        """Segment what `expression` refers to.

        Args:
            image_path: Any file that Pillow reads; it is turned as EXIF says, and the mask is of the turned picture.
            expression: Cut at `data.max_words`, as in training.

        Raises:
            DataError: The image cannot be read, or the expression is empty.
        """
        words = expression.split()[: self._config.data.max_words]
        if not words:
            raise DataError(
                f"the expression is empty, got {expression!r}; say what to look for, e.g. 'left red circle'"
            )
        image = self._images.read(str(image_path))
        width, height = image.size
        example = Example(0, 0, 0, str(image_path), width, height, " ".join(words))
        reply = self._mllm.ask([image], [example.expression])[0]
        prior = make_prior("", reply, MllmIdentity.of(self._mllm), width, height)
        rows = ExampleSet([example], {0: prior}, self._images, self._proposer, self._segmenter.grid, self._known_scores)
        device = next(self._segmenter.parameters()).device
        logits = predict(self._segmenter, rows.inputs([0]).to(device), self._config.loop.autocast)[0].cpu()
        probs = grid_logits_to_native(logits, height, width).sigmoid().numpy()
        pixels = np.asarray(image)
        return Prediction(image_path, example.expression, pixels, probs, prior, self._method, self._version)
