"""The page in a real browser: drop a picture, type words, see the mask over the picture; errors are said in words."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

from l2l_ray.predictions import Prediction
from l2l_ray.serving.access import sha256_of
from l2l_ray.serving.answers import encoded
from l2l_ray.serving.api import make_app
from l2l_ray.serving.settings import ServeConfig
from l2l_ray.serving.uploads import Upload
from l2l_ray.types import PhotoText, Prior
from tests.browser import CHROMIUM, Tab, opened_page

TOKEN = "0123456789abcdef"
GRAY = (200, 200, 200)


class LeftHalf:
    """A backend that finds the left half of every picture, while it is let."""

    def __init__(self) -> None:
        self.is_let = threading.Event()
        self.is_let.set()

    async def answer(self, upload: Upload) -> dict[str, Any]:
        await asyncio.to_thread(self.is_let.wait)
        pixels = np.asarray(Image.open(io.BytesIO(upload.image)))
        height, width, _ = pixels.shape
        probs = np.zeros((height, width), np.float32)
        probs[:, : width // 2] = 0.9
        prior = Prior.absent("", "no box: nothing said", "")
        masks = [
            encoded(Prediction(PhotoText(Path("a.png"), text), text, pixels, probs, prior, "l2l", 2, 0.5))
            for text in upload.expressions
        ]
        size = {"width_px": width, "height_px": height}
        return {**size, "masks": masks, "checkpoint": "mine l2l version 2", "seconds": {}}

    async def problem(self) -> str:
        return ""


@pytest.fixture
def backend() -> LeftHalf:
    return LeftHalf()


@pytest.fixture
def address(backend: LeftHalf) -> Iterator[str]:
    app = make_app(ServeConfig(), sha256_of(TOKEN), backend)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    backend.is_let.set()
    server.should_exit = True
    thread.join()


def drop(tab: Tab, content: bytes, name: str) -> None:
    """Drop a file on the page, as a browser tells it."""
    data = base64.b64encode(content).decode()
    tab.js(
        f"""{{
        const bytes = Uint8Array.from(atob("{data}"), (c) => c.charCodeAt(0));
        const carried = new DataTransfer();
        carried.items.add(new File([bytes], "{name}"));
        const how = {{ dataTransfer: carried, bubbles: true, cancelable: true }};
        document.body.dispatchEvent(new DragEvent("drop", how));
        }}"""
    )


def find(tab: Tab, words: str) -> None:
    tab.js(f"byId('words').value = {words!r}; byId('find').click()")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium, which no package of ours brings")
def test_the_mask_lies_over_the_picture_and_errors_are_said_in_words(address: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (40, 30), GRAY).save(content, "PNG")
    with opened_page(f"{address}/#token={TOKEN}", tmp_path / "profile") as tab:
        assert tab.js("location.href") == f"{address}/", "the token stays in no history"
        find(tab, "left half")
        tab.wait_for("byId('says').innerText === 'Choose a picture first.'")
        drop(tab, content.getvalue(), "gray.png")
        find(tab, "left half\nand again")
        tab.wait_for("document.querySelectorAll('#found canvas').length === 2")
        assert "mine l2l version 2" in tab.js("byId('says').innerText")
        assert tab.js("document.querySelector('figcaption').innerText").startswith("left half: confidence 0.5")
        code = "[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 40, 30).data]"
        shown = np.array(tab.js(code), np.uint8).reshape(30, 40, 4)[..., :3]
        tinted = np.round(0.5 * np.array(GRAY) + 0.5 * np.array([255, 45, 149]))
        assert (np.abs(shown[:, :20] - tinted) <= 1).all() and (shown[:, 20:] == GRAY).all()
        assert tab.complaints == []

        drop(tab, b"no picture", "notes.txt")
        find(tab, "left half")
        tab.wait_for("byId('says').innerText.includes('it is no picture')")
        assert tab.js("byId('says').className") == "wrong"
        tab.js("byId('token').value = 'wrong'")
        find(tab, "left half")
        tab.wait_for("byId('says').innerText.includes('this server asks for its token')")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium, which no package of ours brings")
def test_masks_of_a_picture_never_lie_over_another_one(address: str, backend: LeftHalf, tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (40, 30), GRAY).save(content, "PNG")
    with opened_page(f"{address}/#token={TOKEN}", tmp_path / "profile") as tab:
        drop(tab, content.getvalue(), "asked.png")
        backend.is_let.clear()
        find(tab, "left half")
        tab.wait_for("byId('find').disabled")
        drop(tab, content.getvalue(), "other.png")
        backend.is_let.set()
        tab.wait_for("!byId('find').disabled")
        assert tab.js("document.querySelectorAll('#found figure').length") == 0
        assert tab.js("byId('says').innerText") == ""
        find(tab, "left half")
        tab.wait_for("document.querySelectorAll('#found canvas').length === 1")
