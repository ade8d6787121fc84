"""The prior section of a config: which model is asked, how, and what becomes of its answer.

As in `sections`, a description says what a field does, its unit and where its default comes from.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator

from l2l_ray.config.fields import EMBEDDED, Section


class PriorConfig(Section):
    """The frozen multimodal language model (MLLM), how it is asked, and how its answer becomes a soft mask."""

    model_config = ConfigDict(hide_input_in_errors=True)  # an address that is refused may hold a password

    model: str = Field(
        EMBEDDED,
        description="Folder or hub id of a vision-language model, or of a detector that takes text (docs/priors.md); "
        "'embedded' = the small one we ship",
    )
    url: str | None = Field(
        None,
        description="Address of a server that speaks OpenAI's protocol and serves the model, e.g. "
        "http://127.0.0.1:8000/v1, without a key or password (docs/priors.md); not set = the model is loaded here",
    )
    timeout_s: float = Field(
        120.0,
        gt=0,
        description="With url: longest time from a question to its whole answer, seconds (ours); a busy server is "
        "asked again up to 6 times, after waits of at most 60 s, which do not count",
    )
    prompt: str = Field(
        "auto",
        description="How the model is asked for a box: 'auto' goes by its model type; a family of docs/priors.md; or "
        "the question itself, with {expression} in it",
    )
    coordinates: Literal["auto", "thousandths", "thousandths-yx", "pixels", "photo-pixels", "percent", "fractions"] = (
        Field(
            "auto",
            description="Unit of the numbers in the model's answers: 'auto' = its family's; pixels are of the resized "
            "image that it saw, photo-pixels of the photo itself (without url and min_image_tokens, which resize it)",
        )
    )
    min_image_tokens: int = Field(
        0,
        ge=0,
        description="Smaller photos are enlarged until the model sees so many image tokens, for families that take "
        "any size (Qwen-VL, GLM-V); a 640x480 photo is about 300, and grounding gains up to about 1000 (ours); with "
        "url at most 1568; 0 = off",
    )
    min_accuracy: float = Field(
        0.1,
        ge=0,
        le=1,
        description="A run stops where the share of right boxes (IoU >= .5) on its labeled images is surely below this "
        "(ours); 0 = it goes on in any case",
    )
    image_size: int = Field(
        128, ge=32, description="Embedded model only: side of the square image it sees, px (as in its training)"
    )
    max_new_tokens: int = Field(32, ge=8, description="Longest answer, tokens (ours)")
    num_samples: int = Field(
        1,
        ge=1,
        description="Answers per expression: 1 = the likeliest; more = others drawn beside it (a server draws all), "
        "trusted by how far they agree (ours)",
    )
    temperature: float = Field(
        0.7,
        gt=0,
        description="Of the drawn answers: 1 = the model's own distribution, less = closer to the likeliest (ours)",
    )
    batch_size: int = Field(
        32, ge=1, description="Most expressions asked in one call of the model, or of a server at a time (ours)"
    )
    max_wait_s: float = Field(0.02, ge=0, description="How long a prior actor waits for a fuller batch, seconds (ours)")
    proposal: Literal["box", "polygon", "sam"] = Field(
        "box",
        description="What the soft mask is made from: the box, polygons (Florence-2), or SAM's mask of the box",
    )
    sam_model: str | None = Field(
        None, description="Folder or hub id of SAM, SAM-HQ, SAM 2, SAM 3 or EdgeTAM; for proposal 'sam' only"
    )
    box_softness: float = Field(
        0.08, gt=0, le=0.5, description="Width of a box's soft edge, as a share of the box's side (ours)"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of the MLLM and of SAM; 'auto' = bfloat16 where the processor is fast at it"
    )
    device: str = Field("auto", description="torch device of the MLLM and of SAM; 'auto' = cuda when there is one")

    @property
    def resizes_photos(self) -> bool:
        """Whether the model is handed a photo in another size, so that it cannot know the photo's own pixels."""
        return self.url is not None or (self.model != EMBEDDED and self.min_image_tokens > 0)

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            has_place = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # brackets or a port that are none
            has_place, parts = "", urlsplit("")
        if "@" in (parts.netloc if has_place else url):  # not shown: what stands before it is secret
            raise ValueError(
                "must be an address without user and password, got one with '@'; leave them out, and put the server's "
                "key into the environment variable L2L_PRIOR_API_KEY"
            )
        if not has_place or parts.query or parts.fragment or not url.isprintable() or " " in url:
            raise ValueError(
                "must be an http:// or https:// address without blanks, '?' and '#', such as http://127.0.0.1:8000/v1, "
                f"got {url.partition('?')[0].partition('#')[0]!r}; correct it"
            )
        return url
