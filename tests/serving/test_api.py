"""The HTTP interface with a real model and without Ray: each limit, each error in one line, and no 500 by fuzzing."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import re
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from starlette.testclient import TestClient

from l2l_ray.data.masks import decode
from l2l_ray.predictor import Predictor
from l2l_ray.serving.access import sha256_of
from l2l_ray.serving.answers import Answer, Answerer
from l2l_ray.serving.api import OPEN_PATHS, make_app
from l2l_ray.serving.guard import Refusal
from l2l_ray.serving.settings import ServeConfig
from l2l_ray.serving.uploads import Upload

TOKEN = "0123456789abcdef"
BEARER = {"authorization": f"Bearer {TOKEN}"}
LIMITS = ServeConfig(max_body_mb=0.2, max_megapixels=0.02, max_text_chars=20, max_expressions=3, timeout_s=20)


class OneProcess:
    """A backend in this process. `slow` holds answers back until it is set."""

    def __init__(self, answerer: Answerer) -> None:
        self.answerer, self.said, self.slow = answerer, "", threading.Event()
        self.slow.set()
        self.num_waiting = 0

    async def answer(self, upload: Upload) -> dict[str, Any]:
        self.num_waiting += 1
        while not self.slow.is_set():
            await asyncio.sleep(0.01)
        prepared = self.answerer.prepare(upload)
        (answer,) = self.answerer.answer([prepared])
        if isinstance(answer, Refusal):
            raise answer
        return {**answer, "seconds": {}}

    async def problem(self) -> str:
        return self.said


@pytest.fixture(scope="module")
def answerer(run_dir: Path) -> Answerer:
    return Answerer.load(run_dir)


@pytest.fixture(scope="module")
def backend(answerer: Answerer) -> OneProcess:
    return OneProcess(answerer)


@pytest.fixture(scope="module")
def client(backend: OneProcess) -> Iterator[TestClient]:
    with TestClient(make_app(LIMITS, sha256_of(TOKEN), backend), headers=BEARER) as client:
        yield client


def picture(kind: str = "PNG", size: tuple[int, int] = (120, 90), **options: Any) -> bytes:
    image = Image.new("RGB", size, (230, 230, 230))
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), fill=(220, 30, 30))
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def bomb() -> bytes:
    """Return a PNG of some bytes that claims 900 million pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def ask(client: TestClient, image: bytes, *texts: str) -> Any:
    return client.post("/v1/masks", files={"image": ("a.png", image)}, data={"expression": list(texts)})


def as_json(image: bytes, *texts: Any) -> dict[str, Any]:
    return {"image": base64.b64encode(image).decode(), "expressions": list(texts)}


def test_an_answer_holds_what_the_predictor_says(client: TestClient, run_dir: Path, tmp_path: Path) -> None:
    # A photo on its side: masks are of the picture as people see it.
    exif = Image.Exif()
    exif[0x0112] = 6
    content = picture("JPEG", exif=exif)
    response = ask(client, content, "red circle", "the left")
    assert response.status_code == 200
    answer = Answer.model_validate(response.json())
    assert (answer.width_px, answer.height_px) == (90, 120)
    assert answer.checkpoint == "finished l2l version 2"
    (tmp_path / "photo.jpg").write_bytes(content)
    predictor = Predictor.from_run(run_dir)
    for found, text in zip(answer.masks, ("red circle", "the left"), strict=True):
        expected = predictor.predict(tmp_path / "photo.jpg", text)
        mask = decode({"size": list(found.mask_rle.size), "counts": found.mask_rle.counts})
        assert np.array_equal(mask, expected.mask)
        assert found.confidence == pytest.approx(expected.confidence, abs=1e-3)
        png = np.asarray(Image.open(io.BytesIO(base64.b64decode(found.mask_png))))
        assert np.array_equal(png, np.where(expected.mask, 255, 0))
        rows, columns = np.nonzero(expected.mask)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if rows.size else None
        assert found.box_xyxy_px == box and found.area_px == rows.size


def test_json_and_a_form_get_the_same_answer(client: TestClient) -> None:
    one, other = ask(client, picture(), "red circle"), client.post("/v1/masks", json=as_json(picture(), "red circle"))
    assert one.json()["masks"] == other.json()["masks"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", rb"\n"])
def test_base64_may_have_lines_as_the_program_of_that_name_writes_it(client: TestClient, line_end: bytes) -> None:
    image = base64.encodebytes(picture()).replace(b"\n", line_end)
    assert image.count(line_end) > 1
    content = b'{"image": "%b", "expressions": ["red circle"]}' % image
    assert client.post("/v1/masks", content=content, headers={"content-type": "application/json"}).status_code == 200


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_usual_formats_are_taken(client: TestClient, kind: str) -> None:
    assert ask(client, picture(kind), "circle").status_code == 200


@pytest.mark.parametrize(
    ("image", "texts", "status", "said"),
    [
        (b"", ["a"], 422, "the file is empty"),
        (b"no picture", ["a"], 422, "it is no picture"),
        (picture()[:200], ["a"], 422, "the image cannot be read: .* truncated"),
        (picture("JPEG")[:700], ["a"], 422, "the image cannot be read: .* truncated"),
        (bomb(), ["a"], 422, "more than 179 million pixels"),
        (picture(size=(200, 101)), ["a"], 422, "200 x 101 px, expected at most 0.02 million; make it smaller"),
        (picture("PPM"), ["a"], 422, "must be JPEG, .*, got PPM"),
        (b"\0" * 300_000, ["a"], 413, "the request has .* bytes, expected at most 0.2 MB"),
        (picture(), [], 400, "1 to 3 expressions, got 0"),
        (picture(), ["a"] * 4, 400, "1 to 3 expressions, got 4"),
        (picture(), [" \n"], 400, "an expression is empty"),
        (picture(), ["x" * 21], 400, "has 21 characters, expected at most 20"),
    ],
)
def test_what_is_wrong_with_a_request_is_one_line(
    client: TestClient, image: bytes, texts: list[str], status: int, said: str
) -> None:
    _expect(ask(client, image, *texts), status, said)


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"{", 400, "the body is no JSON"),
        (b"[" * 100_000, 400, "the body is no JSON"),
        (b"\xff\xfe\x00", 400, "the body is no JSON"),
        (b"[]", 400, "got a list"),
        (b'{"image": "", "expressions": [], "x": 1}', 400, "got the keys"),
        (b'{"image": 1, "expressions": ["a"]}', 400, "got int and list"),
        (b'{"image": "?", "expressions": ["a"]}', 400, "`image` is no base64"),
        (json.dumps(as_json(picture(), 5)).encode(), 400, "an expression must be a text, got int"),
        (json.dumps(as_json(picture(), "\ud800")).encode(), 400, r"no Unicode text, got .*ud800"),
        (b" " * 300_000, 413, "expected at most 0.2 MB"),
    ],
)
def test_what_is_wrong_with_a_json_body_is_one_line(client: TestClient, content: bytes, status: int, said: str) -> None:
    _expect(client.post("/v1/masks", content=content, headers={"content-type": "application/json"}), status, said)


@pytest.mark.parametrize(
    ("kind", "content", "status", "said"),
    [
        ("text/plain", b"hi", 415, "got 'text/plain'"),
        ("", b"hi", 415, "got ''"),
        ("multipart/form-data", b"hi", 400, "Missing boundary"),
        ("multipart/form-data; boundary=x", b"hi", 400, "the form cannot be read"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 400, "one file `image`, got 0"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nhi\r\n--x--\r\n',
            400,
            "one file `image`, got a text",
        ),
    ],
)
def test_what_is_wrong_with_a_form_is_one_line(
    client: TestClient, kind: str, content: bytes, status: int, said: str
) -> None:
    _expect(client.post("/v1/masks", content=content, headers={"content-type": kind}), status, said)


def _expect(response: Any, status: int, said: str) -> None:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    line = response.json()["error"]
    assert re.search(said, line) and "\n" not in line and "/tmp" not in line


def test_no_more_than_the_limit_is_read(client: TestClient) -> None:
    num_sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal num_sent
        for _ in range(1000):
            num_sent += 10_000
            yield b"\0" * 10_000

    response = client.post("/v1/masks", content=endless(), headers={"content-type": "application/json"})
    _expect(response, 413, "more than 200000 bytes")
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/v1/masks", 405)])
def test_what_is_not_there_is_named(client: TestClient, method: str, path: str, status: int) -> None:
    _expect(client.request(method, path), status, f"{method} {path}; expected POST /v1/masks")


@pytest.mark.parametrize("path", ["/v1/masks", "/openapi.json", "/nope", "/docs"])
@pytest.mark.parametrize("header", [{"authorization": ""}, {"authorization": "Bearer wrong"}])
def test_everything_but_the_page_and_health_asks_for_the_token(
    client: TestClient, path: str, header: dict[str, str]
) -> None:
    response = client.post(path, headers=header) if path == "/v1/masks" else client.get(path, headers=header)
    _expect(response, 401, "send the header `Authorization: Bearer TOKEN`")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_the_page_and_health_are_open_and_fetch_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    response = client.get(path, headers={"authorization": ""})
    assert response.status_code == 200
    assert "http://" not in response.text and "https://" not in response.text
    assert "default-src 'self'" in response.headers["content-security-policy"]


def test_readiness_says_what_is_missing(client: TestClient, backend: OneProcess) -> None:
    backend.said = "no predictor runs"
    response = client.get("/readyz")
    backend.said = ""
    _expect(response, 503, "not ready: no predictor runs; ask again later")
    assert int(response.headers["retry-after"]) > 0
    assert client.get("/healthz").json() == {"status": "alive"}


def test_the_interface_describes_itself(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    operation = described["paths"]["/v1/masks"]["post"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert {"200", "400", "401", "408", "413", "415", "422", "503"} <= set(operation["responses"])
    assert "Answer" in described["components"]["schemas"] and "token" in described["components"]["securitySchemes"]


def test_more_requests_than_may_be_open_are_told_to_come_back(answerer: Answerer) -> None:
    small = ServeConfig(max_queued=1, max_batch=1)
    held = OneProcess(answerer)
    held.slow.clear()
    with TestClient(make_app(small, sha256_of(TOKEN), held), headers=BEARER) as client, ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(ask, client, picture(), "circle") for _ in range(small.max_open)]
        deadline = time.monotonic() + 30
        while held.num_waiting < small.max_open and time.monotonic() < deadline:
            time.sleep(0.01)
        refused = ask(client, picture(), "circle")
        held.slow.set()
        assert [call.result().status_code for call in taken] == [200] * small.max_open
        _expect(refused, 503, "3 requests are open, expected fewer than 3; ask again later")
        assert int(refused.headers["retry-after"]) > 0
        assert ask(client, picture(), "circle").status_code == 200


def test_a_picture_that_waits_is_answered_by_the_checkpoint_that_comes_meanwhile_and_leaves_no_file(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old = Answerer.load(run_dir)
    prepared = old.prepare(Upload(picture(), ("circle",)))
    del old
    gc.collect()
    assert list(tmp_path.iterdir()) == [], "whoever gives up while it waits would leave it"
    (answer,) = Answerer.load(run_dir).answer([prepared])
    assert isinstance(answer, dict), answer


def test_an_answer_that_takes_too_long_is_given_up(answerer: Answerer) -> None:
    held = OneProcess(answerer)
    held.slow.clear()
    with TestClient(make_app(ServeConfig(timeout_s=0.3), sha256_of(TOKEN), held), headers=BEARER) as client:
        _expect(ask(client, picture(), "circle"), 503, "no answer within 0.3 s")


def test_a_body_that_does_not_arrive_is_given_up(backend: OneProcess) -> None:
    app = make_app(ServeConfig(timeout_s=0.2), sha256_of(TOKEN), backend)
    headers = {**BEARER, "content-type": "application/json"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/masks", "query_string": b"", "headers": pairs}
    sent: list[Any] = []

    async def stalled() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, stalled, send))
    assert sent[0]["status"] == 408
    assert b"did not arrive within 0.2 s" in sent[1]["body"]


def _form(head: bytes, image: bytes) -> bytes:
    first = b'\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    second = b'\r\n--x\r\nContent-Disposition: form-data; name="expression"\r\n\r\na\r\n--x--\r\n'
    return b"--x\r\n" + head + first + image + second


_TEXTS = st.one_of(st.text(max_size=30), st.none(), st.integers(), st.lists(st.text(max_size=3), max_size=2))
_BYTES = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda at, byte: picture()[:at] + bytes([byte]) + picture()[at + 1 :], st.integers(0, 150), st.integers(0, 255)
    ),
    st.builds(lambda at: picture("JPEG")[:at], st.integers(0, 700)),
)
_BODIES = st.one_of(
    st.builds(lambda image, texts: json.dumps(as_json(image, *texts)).encode(), _BYTES, st.lists(_TEXTS, max_size=4)),
    st.recursive(_TEXTS, lambda inner: st.dictionaries(st.sampled_from(["image", "expressions", "x"]), inner)).map(
        lambda value: json.dumps(value).encode()
    ),
    st.builds(_form, st.binary(max_size=20), _BYTES),
    st.binary(max_size=100),
)
_KINDS = st.sampled_from(
    [
        "application/json",
        "multipart/form-data; boundary=x",
        "multipart/form-data; boundary=",
        "application/json; charset=x",
    ]
)


@settings(max_examples=150)
@given(body=_BODIES, kind=_KINDS, method=st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "OPTIONS"]))
def test_no_body_breaks_the_server(client: TestClient, body: bytes, kind: str, method: str) -> None:
    response = client.request(method, "/v1/masks", content=body, headers={"content-type": kind})
    assert response.status_code in (200, 400, 405, 413, 415, 422), (response.status_code, response.text)
    assert (response.status_code == 200) == ("masks" in response.json())


@settings(max_examples=60)
@given(path=st.text(max_size=12), header=st.binary(max_size=20))
def test_no_path_and_no_header_breaks_the_server(client: TestClient, path: str, header: bytes) -> None:
    given_header = header.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")
    response = client.get(f"/{quote(path, errors='replace')}", headers={b"authorization": given_header})
    assert response.status_code in (200, 307, 401, 404, 405), response.text
