"""The review page over HTTP: what a browser may ask of a run's labels, and how a decision is saved.

    GET  /                               the page, its script and style         open to everybody; they hold no data
    GET  /api/run                        the run, how far reviewing is
    GET  /api/kinds                      what the language model called the objects, with counts
    GET  /api/labels?...                 a page of labels, the most doubtful first
    GET  /api/labels/ID                  one label, with masks and reasons
    GET  /api/labels/ID/picture?size=    its photo as JPEG: preview or full
    GET  /api/labels/ID/prior            what the language model marked
    GET  /api/labels/ID/teacher          what the run's model predicts
    POST /api/labels/ID/propose          {"box": [x, y, width, height]}: the model's mask in a box, px
    POST /api/labels/ID/actions          {"action", "upon", "key", "counts", "run"}: decide; answers when it is durable

Every request but the first needs the token, comes from this server's own page, and names this server as `Host`
(`serving/guard.py`). Photos are found by the id of a label: no path comes from a client. A server for several people
asks each for a name, in the header `X-L2L-Reviewer` (`reviewer_of`). Whatever goes wrong is one line,
`{"error": ...}`: 409 with `last` where somebody else decided meanwhile, 412 where a decision is about another run, 428
where a name is needed, 500 where the run's folder or its disk fails. What is answered 412 or 500 stays in the browser.

All paths may have a prefix that the server puts before them, such as `/review`; the page asks relative to itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote

import numpy as np
from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from l2l_ray import __version__
from l2l_ray.data.masks import mask_area_px
from l2l_ray.errors import ConfigError, DataError, L2LError, LedgerError, one_line
from l2l_ray.review.item import Items, as_runs, edit_size, mask_iou
from l2l_ray.review.journal import Journal, StaleAction
from l2l_ray.review.journal_folder import JournalFailure
from l2l_ray.review.journal_lines import DECISIONS, STATES, UNDO
from l2l_ray.review.labels import MAX_KIND_CHARS, Filters, Labels
from l2l_ray.review.proposals import Proposals
from l2l_ray.serving.guard import Guard, Refusal, broken, limited, no_such, page_file, refused, said
from l2l_ray.types import Example

PAGE = Path(__file__).parent / "page"
_FILES = (
    "page.css",
    "page.js",
    "api.js",
    "kept.js",
    "who.js",
    "keys.js",
    "queue.js",
    "canvas.js",
    "draw.js",
    "masks.js",
)
PAGE_FILES = {"/": "index.html", **{f"/{name}": name for name in _FILES}}
MAX_BODY_BYTES = 4_000_000  # a mask of a 20 megapixel photo has some ten thousand runs
MAX_PAGE = 200
MAX_KINDS = 200
MAX_NAME_CHARS = 80
WHO = "x-l2l-reviewer"
T = TypeVar("T")
Mask = Bool[np.ndarray, "H W"]


class Decision(BaseModel):
    """What a reviewer decided about a label."""

    model_config = ConfigDict(extra="forbid", strict=True)
    action: Literal["accept", "reject", "wrong_object", "no_object", "redraw", "undo"]
    upon: int = Field(ge=0, lt=1 << 63, description="number of the last action on this label that the reviewer saw")
    key: str = Field(min_length=8, max_length=64, description="made anew for each action")
    counts: list[int] | None = Field(None, description="redraw: the mask, as run lengths at edit size")
    run: str | None = Field(None, max_length=64, description="`id` of /api/run, as the page that decided knows it")


class Box(BaseModel):
    """Where a reviewer says the object is."""

    model_config = ConfigDict(extra="forbid")
    box: tuple[float, float, float, float] = Field(description="left, top, width, height, px of the photo")


class Asked(BaseModel):
    """Which page of labels is asked for."""

    model_config = ConfigDict(extra="forbid")
    order: Literal["expression", "image"] = "expression"
    start: int = Field(0, ge=0)
    count: int = Field(50, ge=1, le=MAX_PAGE)
    backwards: bool = False
    state: str = Field("", max_length=40)
    lowest: float = Field(0.0, ge=0, le=1)
    highest: float = Field(1.0, ge=0, le=1)
    text: str = Field("", max_length=200)
    kind: str = Field("", max_length=MAX_KIND_CHARS)


def identity(run_dir: Path, reviewer: str) -> str:
    """Return what tells one reviewer's work in one folder from any other on this machine, whatever run is there."""
    return hashlib.sha256(f"{run_dir.resolve()}\0{reviewer}".encode()).hexdigest()[:16]


def work_of(run_dir: Path, reviewer: str, labels: Labels) -> str:
    """Return what tells one reviewer's work on one run from any other: `identity`, and what is the run's own."""
    return f"{identity(run_dir, reviewer)}-{labels.mark}"


def checked_name(given: str, setting: str) -> str:
    """Return a reviewer's name, on one line.

    Args:
        given: What a person wrote.
        setting: Where, for messages.
    Raises:
        ConfigError: It is empty, too long or cannot be printed.
    """
    name = " ".join(given.split())
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
        got = f"{name[:MAX_NAME_CHARS]!r}{' and more' if len(name) > MAX_NAME_CHARS else ''}"
        raise ConfigError(f"{setting} must be a name of 1 to {MAX_NAME_CHARS} printable characters, got {got}")
    return name


def reviewer_of(request: Request) -> str:
    """Return whose request it is on a server for several people: the header `WHO`, UTF-8 written as in an address.

    Raises:
        Refusal: It names nobody.
    """
    given = request.headers.get(WHO)
    if given is None:
        raise Refusal(428, "this server asks who decides, got no name; say yours, which is written beside decisions")
    try:
        return checked_name(unquote(given, errors="strict"), "who decides")
    except UnicodeDecodeError:
        got = repr(given[:MAX_NAME_CHARS])
        raise Refusal(428, f"who decides must be UTF-8 written as in an address, got {got}; use this page") from None
    except ConfigError as error:
        raise Refusal(428, f"{one_line(error)}; say another one") from None


def make_app(
    run_dir: Path, reviewer: str | None, token_sha256: str, addresses: Collection[str], device: str = "auto"
) -> FastAPI:
    """Return the application that people look at one run with.

    Args:
        run_dir: The run's folder, of this machine.
        reviewer: Whose decisions are written; None = of whom each request names, see `reviewer_of`.
        token_sha256: From `serving.access.sha256_of`.
        addresses: Under which the page is opened, see `Guard`.
        device: Of the run's model, see `Predictor.from_run`.
    Raises:
        L2LError: There is no run to review, see `Labels`, or its journal cannot be read.
    """
    labels, journal = Labels(run_dir), Journal(run_dir)
    items, proposals = Items(labels), Proposals(run_dir, device)
    model_is_asked = asyncio.Lock()  # who waits for the model holds no thread that others need to save
    app = FastAPI(
        title="L2L review",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would name a scheme, which is not that of a proxy with TLS
        exception_handlers={
            Refusal: refused,
            StaleAction: _stale,
            JournalFailure: _failed,
            LedgerError: _failed,
            L2LError: _wrong,
            RequestValidationError: _not_understood,
            HTTPException: no_such("use this server's own page"),
            Exception: broken,
        },
    )
    app.add_middleware(Guard, token_sha256=token_sha256, open_paths={"", *PAGE_FILES}, addresses=addresses)

    def who(request: Request) -> str:
        return reviewer_of(request) if reviewer is None else reviewer

    def standing(sent_id: int) -> dict[str, Any]:
        found = journal.standing(sent_id)
        return {
            "state": journal.state(sent_id),
            "number": journal.last_number(sent_id),
            "standing": found.number if found else 0,
            "reviewer": found.reviewer if found else "",
            "history": [action.words for action in journal.history(sent_id)],
            "counts": labels.counts(journal),
            "problems": journal.problems,
        }

    def saved(sent_id: int, decision: Decision, by: str) -> dict[str, Any]:
        if decision.run not in (None, work_of(run_dir, by, labels)):
            raise Refusal(412, "not saved: this decision is about another run or another reviewer's; reload the page")
        journal.refresh("not saved: ")
        record, mask = items.record(sent_id)
        rle = iou = None
        if decision.action == "redraw":
            rle = items.drawn(sent_id, decision.counts)
            iou = round(mask_iou(rle, mask), 4)
        elif decision.counts is not None:
            raise Refusal(422, f"`counts` belongs to redraw, got it with {decision.action}; leave it out")
        elif decision.action == "accept":
            rle = mask
            found = journal.standing(sent_id)
            if found and found.action in ("redraw", "no_object") and decision.upon == journal.last_number(sent_id):
                was = DECISIONS[found.action]
                raise Refusal(422, f"the label is {was!r}, and its own mask is not what is shown; undo that first")
            if not mask_area_px(mask):
                raise Refusal(
                    422, "the label has no pixel, so there is nothing to accept; redraw it, or say no such object"
                )
        label = None if decision.action == UNDO else record if decision.action == "accept" else {**record, "rle": mask}
        made = journal.add(sent_id, decision.action, by, decision.upon, decision.key, label, rle, iou)
        return {"saved": made.number, "iou": iou, **standing(sent_id)}

    @app.get("/api/run")
    def run(request: Request) -> dict[str, Any]:
        name = who(request)
        journal.refresh()
        return {
            "run": run_dir.absolute().name,
            "id": work_of(run_dir, name, labels),
            "about": labels.about,
            "reviewer": name,
            "asks_name": reviewer is None,
            "num": len(labels),
            "counts": labels.counts(journal),
            "states": STATES,
            "decisions": DECISIONS,
            "problems": journal.problems,
        }

    @app.get("/api/kinds")
    def kinds() -> list[tuple[str, int]]:
        return labels.kind_counts(MAX_KINDS)

    @app.get("/api/labels")
    def page(asked: Annotated[Asked, Query()]) -> dict[str, Any]:
        if asked.state not in ("", *STATES):
            raise Refusal(
                422, f"state must be one of {', '.join(STATES)}, got {asked.state[:40]!r}; leave it out for any"
            )
        journal.refresh()
        filters = Filters(asked.state, asked.lowest, asked.highest, asked.text, asked.kind)
        found, num, first = labels.page(journal, filters, asked.order, asked.start, asked.count, asked.backwards)
        rows = [labels.row(position, journal, asked.order) for position in found]
        return {"rows": rows, "num": num, "first": first, "counts": labels.counts(journal)}

    @app.get("/api/labels/{sent_id}")
    def details(sent_id: int) -> dict[str, Any]:
        journal.refresh()
        return {**items.details(sent_id, journal), "counts": labels.counts(journal)}

    @app.get("/api/labels/{sent_id}/picture")
    def picture(sent_id: int, size: Literal["preview", "full"] = "preview") -> Response:
        content = items.preview(sent_id) if size == "preview" else items.picture(sent_id)
        return Response(content, media_type="image/jpeg")

    @app.get("/api/labels/{sent_id}/prior")
    def prior(sent_id: int) -> dict[str, Any]:
        return {"mask": items.prior_mask(sent_id)}

    async def from_model(request: Request, answer: Callable[[], tuple[Example, Mask]]) -> dict[str, Any]:
        def mask() -> dict[str, Any]:
            example, found = answer()
            return {"mask": as_runs(found, edit_size(example.height_px, example.width_px))}

        async with model_is_asked:
            if await request.is_disconnected():
                raise Refusal(400, "nobody waits for this answer any more; ask again")
            return await asyncio.to_thread(mask)

    @app.get("/api/labels/{sent_id}/teacher")
    async def teacher(sent_id: int, request: Request) -> dict[str, Any]:
        def own() -> tuple[Example, Mask]:
            example, stored = items.photo(sent_id), items.prior(sent_id)
            if stored is None:
                raise DataError(f"the run stored no answer of the language model for sentence {sent_id}; draw a box")
            return example, proposals.own(example, stored)

        return await from_model(request, own)

    @app.post("/api/labels/{sent_id}/propose")
    async def propose(sent_id: int, request: Request) -> dict[str, Any]:
        asked = await _body(request, Box)

        def in_box() -> tuple[Example, Mask]:
            example = items.photo(sent_id)
            return example, proposals.in_box(example, list(asked.box))

        return await from_model(request, in_box)

    @app.post("/api/labels/{sent_id}/actions")
    async def act(sent_id: int, request: Request) -> dict[str, Any]:
        name = who(request)
        decision = await _body(request, Decision)
        return await asyncio.to_thread(saved, sent_id, decision, name)

    async def below(request: Request) -> Response:
        return RedirectResponse(f"{request.scope['path'].rpartition('/')[2]}/")

    app.add_api_route("", below, include_in_schema=False)  # the prefix alone; the page asks relative to itself
    for path, name in PAGE_FILES.items():
        app.add_api_route(path, page_file(PAGE / name), include_in_schema=False)
    return app


async def _body(request: Request, kind: Callable[..., T]) -> T:
    """Return the body of a request, checked.

    Raises:
        Refusal: It is too long, no JSON, or not what is expected.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "the content type must be application/json; use this server's own page")
    counted = limited(request, MAX_BODY_BYTES, _too_long)
    try:
        content = json.loads(await counted.body())
        if not isinstance(content, dict):
            raise ValueError(f"got a {type(content).__name__}")
        return kind(**content)
    except ClientDisconnect:
        raise Refusal(400, "the request ended early; send it again") from None
    except ValidationError as error:
        raise Refusal(422, _first(error.errors())) from None
    except (ValueError, TypeError, RecursionError) as error:
        said_so = " ".join(str(error).split())[:200]
        raise Refusal(400, f"the body must be a JSON object: {said_so}; use this server's own page") from None


def _too_long(got: str) -> Refusal:
    return Refusal(
        413,
        f"the request has {got} bytes, expected at most {MAX_BODY_BYTES / 1e6:g} MB; draw the mask with fewer strokes",
    )


def _first(errors: Collection[Any]) -> str:
    """Return what is wrong with the first field of several."""
    error = next(iter(errors))
    name = ".".join(str(part) for part in error["loc"])
    return f"{name}: {error['msg']}; use this server's own page"


async def _stale(request: Request, error: Exception) -> Response:
    assert isinstance(error, StaleAction)
    last = error.last
    return JSONResponse({"error": str(error), "last": {"number": last.number, "words": last.words}}, 409)


async def _failed(request: Request, error: Exception) -> Response:
    return said(500, one_line(error))


async def _wrong(request: Request, error: Exception) -> Response:
    return said(422, one_line(error))


async def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return said(422, _first(error.errors()))
