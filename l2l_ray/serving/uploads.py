"""A request becomes a picture and expressions, or one line that says what is wrong with it.

Nothing is trusted: no more of a body is read than a picture may have bytes, and a picture tells its size before its
pixels are made, since a few kilobytes can claim gigabytes. Formats that start other programs or hide other pictures
are not opened.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from l2l_ray.data.pixels import BadPicture, opened
from l2l_ray.serving.guard import Refusal, limited
from l2l_ray.serving.settings import ServeConfig

FORM, JSON = "multipart/form-data", "application/json"
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_MAX_FIELDS = 1000  # of a form; the number of expressions is checked by the settings
_HOW = "send the file as `image` and each text as `expression`"


@dataclass(frozen=True)
class Upload:
    """A picture file and what to look for in it.

    Example: `Upload(Path("12.jpg").read_bytes(), ("left man",))`
    """

    image: bytes
    expressions: tuple[str, ...]


async def read_upload(request: Request, limits: ServeConfig) -> Upload:
    """Read and check a request; its picture is opened, not decoded.

    Raises:
        Refusal: It is too large, incomplete, or not what is expected.
    """
    counted = limited(request, int(limits.max_body_mb * 1e6), partial(_too_large, limits))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (FORM, JSON):
        raise Refusal(415, f"the content type must be {FORM} or {JSON}, got {kind[:80]!r}; {_HOW}")
    image, texts = await (_from_form(counted) if kind == FORM else _from_json(counted))
    expressions = _checked_texts(texts, limits)
    await asyncio.to_thread(check_picture, image, limits)
    return Upload(image, expressions)


def check_picture(image: bytes, limits: ServeConfig) -> None:
    """Look at the header of a picture file.

    Raises:
        Refusal: It is no picture, of another format, or too large.
    """
    try:
        with opened(image, "the image") as picture:
            kind, (width, height) = picture.format, picture.size
    except BadPicture as error:
        raise Refusal(422, str(error)) from None
    if kind not in FORMATS:
        raise Refusal(422, f"the image must be {', '.join(FORMATS)}, got {kind}; save it as JPEG or PNG")
    if width * height > limits.max_megapixels * 1e6:
        raise Refusal(
            422,
            f"the image has {width} x {height} px, expected at most {limits.max_megapixels:g} million; make it smaller",
        )


def _too_large(limits: ServeConfig, got: str) -> Refusal:
    return Refusal(
        413, f"the request has {got} bytes, expected at most {limits.max_body_mb:g} MB; make the picture smaller"
    )


async def _from_form(request: Request) -> tuple[bytes, Sequence[Any]]:
    try:
        async with request.form(max_fields=_MAX_FIELDS, max_part_size=2**20) as form:
            images, texts = form.getlist("image"), form.getlist("expression")
            if len(images) != 1 or not isinstance(images[0], UploadFile):
                raise Refusal(400, f"the form must have one file `image`, got {_found(images)}; {_HOW}")
            return await images[0].read(), texts
    except (HTTPException, MultiPartException, FormParserError) as error:
        said = error.detail if isinstance(error, HTTPException) else str(error)
        raise Refusal(400, f"the form cannot be read: {said}; expected {FORM} with a boundary: {_HOW}") from None


def _found(images: Sequence[Any]) -> str:
    return f"{len(images)}" if len(images) != 1 else "a text"


async def _from_json(request: Request) -> tuple[bytes, Sequence[Any]]:
    how = 'send {"image": BASE64, "expressions": ["the left cup"]}'
    try:
        content = json.loads(await request.body(), strict=False)  # line breaks in texts: `base64` writes them
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {' '.join(str(error).split())[:200]}; {how}") from None
    if not isinstance(content, dict) or set(content) != {"image", "expressions"}:
        got = f"the keys {sorted(content)[:5]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise Refusal(400, _plain(f"the body must have `image` and `expressions`, got {got}; {how}"))
    image, texts = content["image"], content["expressions"]
    if not isinstance(image, str) or not isinstance(texts, list):
        got = f"{type(image).__name__} and {type(texts).__name__}"
        raise Refusal(400, f"`image` must be a text and `expressions` a list, got {got}; {how}")
    try:
        return base64.b64decode("".join(image.split()), validate=True), texts
    except ValueError as error:
        raise Refusal(400, f"`image` is no base64: {error}; encode the bytes of the file, without a prefix") from None


def _checked_texts(texts: Sequence[Any], limits: ServeConfig) -> tuple[str, ...]:
    if not 1 <= len(texts) <= limits.max_expressions:
        raise Refusal(
            400,
            f"a request must have 1 to {limits.max_expressions} expressions, got {len(texts)}; say what to look for, "
            "and send more in further requests",
        )
    for text in texts:
        if not isinstance(text, str):
            raise Refusal(400, f"an expression must be a text, got {type(text).__name__}; say what to look for")
        if not text.split():
            raise Refusal(400, f"an expression is empty, got {_plain(text[:20])!r}; say what to look for: 'left cup'")
        if len(text) > limits.max_text_chars:
            raise Refusal(
                400,
                f"an expression has {len(text)} characters, expected at most {limits.max_text_chars}; say it shorter",
            )
        if _plain(text) != text:
            raise Refusal(400, f"an expression is no Unicode text, got {_plain(text)!r}; send it as UTF-8")
    return tuple(texts)


def _plain(text: str) -> str:
    """Return a text that UTF-8 can carry: half a character of JSON's escapes cannot be sent back."""
    return text.encode("utf-8", "backslashreplace").decode()
