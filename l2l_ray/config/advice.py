"""What a person should know although nothing is wrong: models that were not made for these pictures, and which are.

The models that ship with the package have seen drawn shapes alone. On photos they answer all the same, with
confidences that look right; so whoever meets photos with them says so once.
"""

from __future__ import annotations

from l2l_ray.config.fields import EMBEDDED
from l2l_ray.config.presets import NEEDS, PHOTOS
from l2l_ray.config.run import RunConfig


def toy_models(config: RunConfig) -> str | None:
    """Return what to tell whoever starts this run on pictures that its models were not made for; None = nothing."""
    if config.data.root == EMBEDDED or not (names := _embedded(config)):
        return None
    verb = "is" if len(names) == 1 else "are"
    return (
        f"{', '.join(names)} {verb} 'embedded': tiny models made for drawn shapes. On other pictures their masks and "
        f"confidences mean nothing; this only shows that everything works. {_way_out()}"
    )


def toy_answers(config: RunConfig) -> str | None:
    """Return what to tell whoever asks a run of this config about a picture it was not made for; None = nothing."""
    if config.data.root == EMBEDDED:
        why = "this run learned from drawn shapes"
    elif names := _embedded(config):
        why = f"this run's {', '.join(names)} know drawn shapes alone"
    else:
        return None
    return f"{why}: on other pictures its masks and confidences mean nothing. {_way_out()}"


def _embedded(config: RunConfig) -> list[str]:
    models = {
        "prior.model": config.prior.model,
        "segmenter.backbone": config.segmenter.backbone,
        "segmenter.text": config.segmenter.text,
    }
    return [name for name, model in models.items() if model == EMBEDDED]


def _way_out() -> str:
    for_photos = {name: needs for name, needs in NEEDS.items() if needs.work == PHOTOS}
    ways = "; ".join(f"--preset {name} ({needs.sentence()})" for name, needs in for_photos.items())
    return f"For photos: l2l run with {ways}"
