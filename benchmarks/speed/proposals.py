"""(d) Masks of SAM per second: each picture encoded once for all its boxes, or once for each of them.

Three boxes on each picture, of three sentences. A SAM 2.1 of the smallest released size, with random weights, which
change no time. Encodings that are kept from an earlier call leave the mask decoder and writing alone.
"""

from __future__ import annotations

from typing import Any

from PIL import Image
from transformers import Sam2Config, Sam2Model

from benchmarks.speed.measure import ratio, seconds_in_turns, summary
from benchmarks.speed.setup import Setup
from l2l_ray.device import pick_dtype
from l2l_ray.prior.reply import Reply
from l2l_ray.prior.sam import Sam
from l2l_ray.randomness import numpy_generator, seed_torch
from l2l_ray.types import Prior

PICTURES, BOXES = 2, 3
PHOTO = (640, 480)


def measure(setup: Setup) -> dict[str, Any]:
    """Return times, masks per second, and whether both ways draw the same masks."""
    model, dtype = _sam2(64 if setup.size == "tiny" else 1024).to(setup.device), pick_dtype("auto", setup.device)
    asked = [(picture, _prior(number)) for picture in map(_picture, range(PICTURES)) for number in range(BOXES)]

    def together(sam: Sam) -> list[Reply]:
        return sam.draw(*map(list, zip(*asked, strict=True)))

    def one_by_one() -> list[Reply]:
        return [Sam(model, dtype).draw([picture], [prior])[0] for picture, prior in asked]

    kept = Sam(model, dtype)
    together(kept)
    ways = {
        "one_by_one": one_by_one,
        "together": lambda: together(Sam(model, dtype)),
        "kept": lambda: together(kept),
    }
    spent = seconds_in_turns(ways, setup.repeats, setup.device)
    times = summary(spent)
    return {
        "model": "SAM 2.1 tiny, random",
        "dtype": dtype,
        "model_side_px": model.config.prompt_encoder_config.image_size,
        "pictures": PICTURES,
        "boxes_per_picture": BOXES,
        "seconds": times,
        "masks_per_s": {name: len(asked) / found["median_s"] for name, found in times.items()},
        "times_faster": ratio(spent["one_by_one"], spent["together"]),
        "masks_are_equal": [reply.masks for reply in one_by_one()] == [reply.masks for reply in together(kept)],
    }


def _sam2(side_px: int) -> Sam2Model:
    """Return a SAM 2 of the released smallest width and depth."""
    seed_torch(0)
    sizes = [[side_px // stride] * 2 for stride in (4, 8, 16)]
    backbone = {"model_type": "sam2_hiera_det_model", "image_size": [side_px] * 2}
    eye = {"backbone_config": backbone, "backbone_feature_sizes": sizes}
    return Sam2Model(Sam2Config(vision_config=eye, prompt_encoder_config={"image_size": side_px}))


def _picture(number: int) -> Image.Image:
    return Image.fromarray(numpy_generator(number).integers(0, 256, (PHOTO[1], PHOTO[0], 3), dtype="uint8"))


def _prior(number: int) -> Prior:
    box = (0.1 + 0.2 * number, 0.2, 0.4 + 0.2 * number, 0.8)
    return Prior(f"{number}", (box,), (0.9,), (), "cup", 0.9, "", "")
