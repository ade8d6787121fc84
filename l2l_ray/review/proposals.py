"""What the run's model says when a reviewer asks: the mask of a box that the reviewer draws, or its own prediction.

The model is loaded at the first question, and no language model with it: a drawn box takes its place, and for the
model's own prediction the answer is used that the run stored.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from l2l_ray.data.pixels import read_header
from l2l_ray.errors import DataError
from l2l_ray.prior.prompt import PromptFormat
from l2l_ray.prior.reply import Reply
from l2l_ray.storage import place
from l2l_ray.types import Example, Prior

if TYPE_CHECKING:
    from l2l_ray.predictor import Predictor


class Proposals:
    """The chosen version of a run, loaded when it is first asked; one question at a time.

    Args:
        run_dir: The run's folder.
        device: See `Predictor.from_run`.
    """

    def __init__(self, run_dir: Path, device: str = "auto") -> None:
        self._run_dir, self._device = run_dir, device
        self._lock = threading.Lock()
        self._predictor: Predictor | None = None

    def in_box(self, example: Example, box_xywh_px: Any) -> Bool[np.ndarray, "H W"]:
        """Return the mask of what an expression refers to, inside a box of the reviewer's.

        Raises:
            L2LError: The box does not fit the photo, or the model cannot be loaded or cannot answer.
        """
        with self._lock:
            hint = {"box": box_xywh_px}
            return self._fitting(
                example, self._loaded().predict(place(example.image_path), example.expression, hint).mask
            )

    def own(self, example: Example, prior: Prior) -> Bool[np.ndarray, "H W"]:
        """Return what the model predicts, with the prior that the run stored.

        Raises:
            L2LError: The model cannot be loaded or cannot answer.
        """
        with self._lock:
            found = self._loaded().predict_with(place(example.image_path), example.expression, prior)
            return self._fitting(example, found.mask)

    def _loaded(self) -> Predictor:
        if self._predictor is None:
            from l2l_ray.predictor import Predictor  # it takes seconds, and most reviewers never ask

            self._predictor = Predictor.from_run(self._run_dir, mllm=_NotAsked(), device=self._device)
        return self._predictor

    @staticmethod
    def _fitting(example: Example, mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
        if mask.shape != (example.height_px, example.width_px) or read_header(example.image_path).is_turned:
            raise DataError(
                f"the model sees {Path(example.image_path).name} turned, as its EXIF says, and the data set does not, "
                "so no mask can be proposed; draw it by hand"
            )
        return mask


class _NotAsked:
    """Stands where the language model would; nobody asks it."""

    fingerprint = ""
    prompt = PromptFormat("nobody", "json", "", "")

    def ask(self, images: Sequence[Image.Image], expressions: Sequence[str]) -> list[Reply]:
        """Answer nothing, as nothing is asked."""
        assert not images, "a box, or a stored prior, takes the language model's place"
        return []
