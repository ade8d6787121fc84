"""The page in a real browser: decide, redraw, undo, reload, two tabs, a server that dies; by keyboard alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from l2l_ray.data.masks import decode
from l2l_ray.review.app import make_app
from l2l_ray.review.item import Items
from l2l_ray.review.journal import FILE, Journal
from l2l_ray.review.labels import Labels
from l2l_ray.review.server import listening
from l2l_ray.serving.access import sha256_of
from tests.browser import CHROMIUM, WAIT_S, Tab, opened_page, opened_tab
from tests.review.test_app import HOSTILE, hostile

TOKEN = "0123456789abcdef"
WORKING = ("Saving …", "kept in this browser")  # what is said while the page is at work
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium, which no package of ours brings")


@contextmanager
def served(run: Path, who: str = "anna") -> Iterator[str]:
    """Serve a run from this process; gives the page's address with the token."""
    with listening(None) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        app = make_app(run, who, sha256_of(TOKEN), frozenset({host}))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://{host}/#token={TOKEN}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def address(reviewed_run: Path) -> Iterator[str]:
    with served(reviewed_run) as address:
        yield address


def ready(tab: Tab, expression: str | None = None) -> str:
    """Wait until a label is open with its photo; return its expression."""
    tab.wait_for("document.getElementById('history').children.length > 0")
    at_rest(tab)
    if expression is not None:
        tab.wait_for(f"document.getElementById('expression').textContent === {expression!r}")
    return str(tab.js("document.getElementById('expression').textContent"))


def at_rest(tab: Tab) -> None:
    tab.wait_for("document.querySelector('main')?.getAttribute('aria-busy') === 'false'")


def said(tab: Tab, words: str) -> None:
    """Wait until the page has said something, and is ready for the next key."""
    tab.wait_for(f"document.getElementById('says')?.textContent.includes({words!r})")
    if not words.endswith(WORKING):
        at_rest(tab)


def current(tab: Tab) -> int:
    return int(tab.js("location.hash").removeprefix("#label="))


def pixels(tab: Tab) -> np.ndarray:
    """Return what the page shows, as width, height and the share of its pixels that are pink."""
    code = """(() => { const c = document.getElementById('view');
    const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;
    for (let i = 0; i < d.length; i += 4) n += d[i] > 230 && d[i + 1] < 70 && d[i + 2] > 110 && d[i + 2] < 190;
    return n; })()"""
    return tab.js(code)


def test_by_keyboard_alone_labels_are_accepted_rejected_redrawn_and_undone(
    address: str, reviewed_run: Path, tmp_path: Path
) -> None:
    with opened_page(address, tmp_path / "profile") as tab:
        first, first_id = ready(tab), current(tab)
        assert "token" not in tab.js("location.href"), "it stays in no history"
        assert tab.js("document.querySelectorAll('#rows button').length") == len(Labels(reviewed_run))
        tab.press("r")
        said(tab, f"Saved: “{first}” is rejected.")
        second = ready(tab)
        second_id = current(tab)
        assert second_id != first_id
        tab.press("d")
        tab.wait_for("!document.getElementById('drawing').hidden")
        # Clear; brush down in the middle, to the right, brush up.
        tab.press("c", "b", " ", *["ArrowRight"] * 6, " ", "Enter")
        said(tab, f"Saved: “{second}” is redrawn (IoU with the label: ")
        assert ready(tab) != second and tab.js("document.getElementById('drawing').hidden")
        third_id = current(tab)
        tab.press("w")
        said(tab, "is wrong object.")
        tab.press("n")
        said(tab, "is no such object.")
        tab.press("u")
        said(tab, "Undone: ")
        tab.press("u")
        said(tab, "Undone: ")
        tab.wait_for(f"location.hash === '#label={third_id}'")
        made = {action.sent_id: action for action in Journal(reviewed_run).decisions()}
        assert {i: action.action for i, action in made.items()} == {first_id: "reject", second_id: "redraw"}
        drawn = decode(made[second_id].rle)
        rows, columns = (np.flatnonzero(drawn.any(axis=axis)) for axis in (1, 0))
        height, width = drawn.shape
        assert rows[0] <= height // 2 <= rows[-1] and columns[0] <= width // 2 and np.ptp(columns) > np.ptp(rows)

        tab.send("Page.reload")
        tab.wait_for("document.readyState === 'complete'")
        ready(tab)
        assert current(tab) == third_id, "the label that was open is open again"
        tab.wait_for("document.getElementById('counts').textContent.includes('2 of ')")
        tab.press("k", "j", "?")
        tab.wait_for("document.getElementById('help').open")
        tab.press("Escape")
        tab.wait_for("!document.getElementById('help').open")
        tab.press("?")
        tab.js("document.getElementById('close-help').click()")
        tab.wait_for("!document.getElementById('help').open")
        at_rest(tab)
        tab.press("u")
        said(tab, "Undone: ")
        assert Journal(reviewed_run).state(second_id) == "open", "what was decided before the reload can be undone"
        assert tab.complaints == []


def test_a_polygon_is_drawn_with_the_mouse_and_cut_with_the_keyboard(
    address: str, reviewed_run: Path, tmp_path: Path
) -> None:
    def clicked(x: float, y: float) -> None:
        box = tab.js("(({left, top}) => [left, top])(document.getElementById('view').getBoundingClientRect())")
        at = tab.js(f"[viewerPoint[0] + {x} * viewerPoint[2], viewerPoint[1] + {y} * viewerPoint[2]]")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            where = {"x": box[0] + at[0], "y": box[1] + at[1]}
            tab.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    with opened_page(address, tmp_path / "profile") as tab:
        ready(tab)
        example = Items(Labels(reviewed_run)).photo(current(tab))
        height, width = example.height_px, example.width_px
        tab.press("d", "c", "p")
        tab.wait_for("!document.getElementById('drawing').hidden")
        # Where the photo lies in the view: it is fitted, with a margin.
        tab.js(f"""(() => {{ const c = document.getElementById('view');
            const zoom = Math.min(c.clientWidth / {width}, c.clientHeight / {height}) * .97;
            window.viewerPoint = [(c.clientWidth - {width} * zoom) / 2, (c.clientHeight - {height} * zoom) / 2, zoom];
            }})()""")
        left, top, right, bottom = 4, 6, width - 8, height - 10
        for corner in ((left, top), (right, top), (right, bottom), (left, bottom)):
            clicked(*corner)
        tab.press("Enter")
        tab.wait_for("document.getElementById('polygon').getAttribute('aria-pressed') === 'true'")
        for corner in ((left, top), (width // 2, top), (width // 2, bottom), (left, bottom)):
            clicked(*corner)
        tab.send("Input.dispatchKeyEvent", type="keyDown", key="Enter", modifiers=8, windowsVirtualKeyCode=13)
        assert pixels(tab) > 0
        tab.press("Enter")
        said(tab, "is redrawn")
        (action,) = Journal(reviewed_run).decisions()
        expected = np.zeros((height, width), bool)
        expected[top:bottom, width // 2 : right] = True
        wrong = decode(action.rle) ^ expected
        assert wrong.sum() <= 3 * (bottom - top + right - left), "but for the pixels along the border"
        assert tab.complaints == []


def test_two_tabs_do_not_overwrite_each_other(address: str, reviewed_run: Path, tmp_path: Path) -> None:
    with opened_page(address, tmp_path / "profile") as mine, opened_tab(address, tmp_path / "profile") as theirs:
        expression, sent_id = ready(mine), current(mine)
        assert ready(theirs) == expression
        mine.press("d", "c", " ")  # a drawing that must not be lost
        mine.wait_for("!document.getElementById('drawing').hidden")
        theirs.press("r")
        said(theirs, "is rejected.")
        mine.press("Enter")
        said(mine, "not saved: anna said 'rejected' at ")
        assert mine.js("document.getElementById('says').className") == "wrong"
        assert Journal(reviewed_run).state(sent_id) == "rejected"
        mine.wait_for("document.getElementById('facts').textContent.startsWith('rejected by anna')")
        assert mine.js("!document.getElementById('drawing').hidden"), "the drawing is still there"
        mine.press("Enter")
        said(mine, "is redrawn")
        journal = Journal(reviewed_run)
        assert [action.action for action in journal.history(sent_id)] == ["reject", "redraw"]


def test_hostile_words_are_shown_as_words(reviewed_run: Path, tmp_path: Path) -> None:
    hostile(reviewed_run, HOSTILE)
    with served(reviewed_run, "<b>anna</b>") as address, opened_page(address, tmp_path / "profile") as tab:
        ready(tab)
        tab.js(
            "document.getElementById('text').value = 'onerror';"
            "document.getElementById('text').dispatchEvent(new Event('input'))"
        )
        tab.wait_for("document.querySelectorAll('#rows button').length === 1")
        tab.wait_for("document.getElementById('expression').textContent.includes('onerror=')")
        at_rest(tab)
        tab.press("r")
        said(tab, "<script>alert(1)</script>")
        assert tab.js("document.querySelectorAll('b, img, script:not([src])').length") == 0
        assert tab.js("document.title") == f"{reviewed_run.name}: L2L review"
        assert tab.js("document.getElementById('reviewer').textContent") == "as <b>anna</b>"
        assert tab.complaints == []


@contextmanager
def own_process(run: Path, port: int, token: str = TOKEN) -> Iterator[subprocess.Popen[str]]:
    """Run `l2l review` as a person does; ready when it has told its address."""
    command = [sys.executable, "-m", "l2l_ray.cli", "review", str(run), "--port", str(port), "--no-browser"]
    process = subprocess.Popen(
        [*command, "--reviewer", "anna"], stdout=subprocess.PIPE, text=True, env={**os.environ, "L2L_TOKEN": token}
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"review     http://127.0.0.1:{port}/#token={token}\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_server_that_dies_in_mid_save_loses_nothing(reviewed_run: Path, tmp_path: Path) -> None:
    with listening(None) as free:
        port = free.getsockname()[1]
    with own_process(reviewed_run, port) as server:
        address = f"http://127.0.0.1:{port}/#token={TOKEN}"
        with opened_page(address, tmp_path / "profile") as tab:
            first, first_id = ready(tab), current(tab)
            tab.press("r")
            said(tab, "is rejected.")
            second = ready(tab)
            second_id = current(tab)
            server.send_signal(signal.SIGSTOP)  # it takes the request and does not answer it
            tab.press("n")
            said(tab, "Saving …")
            server.send_signal(signal.SIGKILL)
            server.wait()
            said(tab, "Your decision is kept in this browser")
            with own_process(reviewed_run, port) as again:
                said(tab, f"Saved: “{second}” is no such object.")
                ready(tab)
                third_id = current(tab)
                again.send_signal(signal.SIGINT)
                assert again.stdout is not None
                assert again.wait(WAIT_S) == 0
                assert "decided    1 rejected, 1 no such object" in again.stdout.read()
            tab.press("w")
            said(tab, "Your decision is kept in this browser")
            other = "fedcba9876543210"  # as when the server makes a new token
            with own_process(reviewed_run, port, other):
                said(tab, "This tab does not have the server's token.")
                tab.send("Page.navigate", url=f"http://127.0.0.1:{port}/#token={other}")
                said(tab, "A decision that was not saved before is saved now.")
    journal = Journal(reviewed_run)
    states = [journal.state(sent_id) for sent_id in (first_id, second_id, third_id)]
    assert states == ["rejected", "no such object", "wrong object"] and first != second
    assert len((reviewed_run / FILE).read_text().splitlines()) == 3
