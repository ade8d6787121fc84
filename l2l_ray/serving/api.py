"""The HTTP interface: who may ask what, and how every outcome is said. It knows neither Ray nor models (`Backend`).

    POST /v1/masks      a picture and expressions: one mask each
    GET  /openapi.json  this interface, for programs
    GET  /healthz       the process lives               open to everybody
    GET  /readyz        a model is loaded and answers   open to everybody
    GET  /              the page; it holds no data      open to everybody, and so are its script and style

What goes wrong is one line, `{"error": "..."}`, with a 4xx; or 503 with `Retry-After` where the same request may
succeed later. Nothing is fetched from anywhere: the page brings its script and style.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from l2l_ray import __version__
from l2l_ray.serving.answers import Answer
from l2l_ray.serving.guard import Guard, Refusal, broken, no_such, page_file, refused
from l2l_ray.serving.settings import ServeConfig
from l2l_ray.serving.uploads import FORM, JSON, Upload, read_upload

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
OPEN_PATHS = {*PAGE_FILES, "/healthz", "/readyz"}
_REQUEST = {
    "required": True,
    "content": {
        FORM: {
            "schema": {
                "type": "object",
                "required": ["image", "expression"],
                "properties": {
                    "image": {"type": "string", "format": "binary"},
                    "expression": {"type": "array", "items": {"type": "string"}},
                },
            }
        },
        JSON: {
            "schema": {
                "type": "object",
                "required": ["image", "expressions"],
                "additionalProperties": False,
                "properties": {
                    "image": {"type": "string", "format": "byte", "description": "The picture's file as base64"},
                    "expressions": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                },
            }
        },
    },
}
_OUTCOMES = {
    400: "The body is not what is expected, or an expression is empty, too long, or one too many",
    401: "No token, or a wrong one",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "Another content type",
    422: "The picture is none, truncated, or has too many pixels",
    503: "Too many requests wait, or the answer took too long; Retry-After says when to ask again",
}


@runtime_checkable
class Backend(Protocol):
    """Whoever answers."""

    async def answer(self, upload: Upload) -> dict[str, Any]:
        """Return an `Answer` in JSON's types.

        Raises:
            Refusal: There is none, and why.
        """

    async def problem(self) -> str:
        """Return why nothing can be answered now; "" = it can."""


def make_app(settings: ServeConfig, token_sha256: str, backend: Backend) -> FastAPI:
    """Return the application.

    Args:
        settings: Limits of a request, and how many may be open at once.
        token_sha256: From `access.sha256_of`.
        backend: Answers.
    """
    app = FastAPI(
        title="L2L on Ray",
        summary="The pixels that a text refers to.",
        version=__version__,
        docs_url=None,  # it would fetch its script from elsewhere
        redoc_url=None,
        exception_handlers={
            Refusal: refused,
            HTTPException: no_such("expected POST /v1/masks; see /openapi.json"),
            Exception: broken,
        },
    )
    app.add_middleware(Guard, token_sha256=token_sha256, open_paths=OPEN_PATHS)
    num_open = 0

    @app.post(
        "/v1/masks",
        summary="Find what each expression refers to",
        openapi_extra={"requestBody": _REQUEST, "security": [{"token": []}]},
        responses={200: {"model": Answer}, **{code: {"description": text} for code, text in _OUTCOMES.items()}},
    )
    async def masks(request: Request) -> JSONResponse:
        nonlocal num_open
        if num_open >= settings.max_open:
            raise Refusal(
                503, f"{num_open} requests are open, expected fewer than {settings.max_open}; ask again later"
            )
        num_open += 1
        try:
            return JSONResponse(await _answered(request, settings, backend))
        finally:
            num_open -= 1

    @app.get("/healthz", summary="The process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="A model is loaded and answers")
    async def readyz() -> dict[str, str]:
        if problem := await backend.problem():
            raise Refusal(503, f"not ready: {problem}; ask again later")
        return {"status": "ready"}

    for path, name in PAGE_FILES.items():
        app.add_api_route(path, page_file(PAGE / name), include_in_schema=False)
    described = app.openapi()
    described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return app


async def _answered(request: Request, settings: ServeConfig, backend: Backend) -> dict[str, Any]:
    """Read a request and answer it, in the time there is.

    Raises:
        Refusal: It cannot be answered.
    """
    started = time.monotonic()
    try:
        async with asyncio.timeout(settings.timeout_s):
            upload = await read_upload(request, settings)
    except TimeoutError:
        raise Refusal(
            408, f"the request did not arrive within {settings.timeout_s:g} s; send a smaller picture"
        ) from None
    except ClientDisconnect:
        raise Refusal(400, "the request ended early; send it again") from None
    try:
        async with asyncio.timeout(settings.timeout_s - (time.monotonic() - started)):
            answer = await backend.answer(upload)
    except TimeoutError:
        raise Refusal(
            503, f"no answer within {settings.timeout_s:g} s; ask again later, or for fewer expressions at once"
        ) from None
    answer["seconds"]["total"] = time.monotonic() - started
    return answer
