"""From uploads to answers: pictures are decoded, a run's predictor answers, masks become RLE and PNG.

A picture is decoded once, turned as EXIF says, and stays in memory until it is answered. It is the request's, so a
picture that one `Answerer` prepared may be answered by the next, which a change of checkpoint puts in its place
meanwhile.
"""

from __future__ import annotations

import base64
import io
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, Field

from l2l_ray.data.masks import box_of_mask
from l2l_ray.data.pixels import BadPicture, read_rgb
from l2l_ray.predictions import FailedPrediction, Prediction
from l2l_ray.predictor import Predictor, run_and_version
from l2l_ray.prior.reply import MaskModel, PictureMllm
from l2l_ray.serving.guard import Refusal
from l2l_ray.serving.uploads import Upload
from l2l_ray.types import PhotoText

logger = logging.getLogger(__name__)


class Rle(BaseModel):
    """A mask as COCO's compressed run lengths."""

    size: tuple[int, int] = Field(description="Height and width, px")
    counts: str


class MaskAnswer(BaseModel):
    """What one expression refers to."""

    expression: str = Field(description="The words that the models saw")
    confidence: float = Field(description="Estimated IoU of the mask with the truth, 0 to 1")
    box_xyxy_px: tuple[int, int, int, int] | None = Field(
        description="The smallest box around the mask: left, top, right, bottom; right and bottom lie outside. null = "
        "nothing was found"
    )
    area_px: int
    mask_rle: Rle
    mask_png: str = Field(description="The mask as a PNG of the picture's size, base64; 255 = the object")
    prior_failure: str = Field(description="Why the language model gave no box; empty = it gave one")
    note: str = Field(description="Which part of the expression was not read; empty = all was")


class Answer(BaseModel):
    """The answer to a request."""

    width_px: int = Field(description="Of the picture as people see it, turned as EXIF says; masks have this size")
    height_px: int
    masks: list[MaskAnswer] = Field(description="One per expression, in their order")
    checkpoint: str = Field(description="Whose answer it is: run, method and version")
    seconds: dict[str, float] = Field(
        description="decode: the picture; wait: for a batch; predict: the whole batch; total: as the server saw it"
    )


@dataclass(frozen=True)
class Prepared:
    """A request whose picture is decoded.

    Example: `answerer.prepare(Upload(content, ("left man",)))`
    """

    picture: Image.Image
    expressions: tuple[str, ...]
    seconds: float


class Answerer:
    """A predictor of uploads; `prepare` may be called from any thread, `answer` from one at a time.

    Args:
        predictor: Of the run that answers.
        name: What answers call it.
    """

    def __init__(self, predictor: Predictor, name: str) -> None:
        self._predictor, self.name = predictor, name

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        mllm: PictureMllm | None = None,
        device: str = "auto",
        sam: MaskModel | None = None,
        before: Answerer | None = None,
    ) -> Answerer:
        """Load a run's version; arguments as in `Predictor.from_run`.

        Where it takes the place of another (`before`), models that answer the same are not loaded again.

        Raises:
            L2LError: As `Predictor.from_run`.
        """
        run, method, version = run_and_version(checkpoint)
        loaded = None if before is None else before._predictor.models
        predictor = Predictor.from_run(checkpoint, mllm, device, sam, loaded)
        return cls(predictor, f"{run.path.name} {method} version {version}")

    @staticmethod
    def prepare(upload: Upload) -> Prepared:
        """Decode a picture.

        Raises:
            Refusal: It is truncated or damaged.
        """
        started = time.perf_counter()
        try:
            picture = read_rgb(upload.image, "the image", upright=True)
        except BadPicture as error:
            raise Refusal(422, str(error)) from None
        return Prepared(picture, upload.expressions, time.perf_counter() - started)

    def answer(self, batch: Sequence[Prepared]) -> list[dict[str, Any] | Refusal]:
        """Return an answer for each request, without `seconds`, or why there is none."""
        pictures = {Path(f"picture {number}"): one.picture for number, one in enumerate(batch)}
        items = [PhotoText(path, text) for path, one in zip(pictures, batch, strict=True) for text in one.expressions]
        results = (self._result(result) for result in self._predictor.predict_many(items, pictures))
        answers: list[dict[str, Any] | Refusal] = []
        for one in batch:
            masks = [next(results) for _ in one.expressions]
            failed = next((mask for mask in masks if isinstance(mask, Refusal)), None)
            width, height = one.picture.size
            answer = {"width_px": width, "height_px": height, "masks": masks, "checkpoint": self.name}
            answers.append(failed or answer)
        return answers

    def _result(self, result: Prediction | FailedPrediction) -> dict[str, Any] | Refusal:
        if isinstance(result, FailedPrediction):
            logger.error("no answer: %s", result.error)
            return Refusal(503, f"the model could not answer {result.item.expression!r}: {result.error}")
        return encoded(result) | {"note": self._predictor.cut(result.item.expression)}


def encoded(result: Prediction) -> dict[str, Any]:
    """Return a prediction as a `MaskAnswer` in JSON's types, without its `note`."""
    summary = result.summary()
    left, top, width, height = map(int, box_of_mask(summary["mask_rle"]))
    png = io.BytesIO()
    Image.fromarray(result.mask).convert("L").save(png, "PNG")
    return {
        "expression": result.expression,
        "confidence": summary["confidence"],
        "box_xyxy_px": [left, top, left + width, top + height] if summary["area_px"] else None,
        "area_px": summary["area_px"],
        "mask_rle": summary["mask_rle"],
        "mask_png": base64.b64encode(png.getvalue()).decode(),
        "prior_failure": result.prior.failure,
    }
