"""The page in a real browser: decide, redraw, undo, reload, two tabs, a server that dies; by keyboard alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from l2l_ray.data.masks import decode
from l2l_ray.review.app import make_app, work_of
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
def served(
    run: Path,
    who: str | None = "anna",
    prefix: str = "",
    name: str = "127.0.0.1",
    proxy: Callable[[ASGIApp], ASGIApp] = lambda app: app,
) -> Iterator[str]:
    """Serve a run from this process, as Serve does below a prefix; gives the page's address with the token."""
    with listening(None) as listener:
        host = f"{name}:{listener.getsockname()[1]}"
        app = proxy(make_app(run, who, sha256_of(TOKEN), frozenset({f"http://{host}"})))

        async def below(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "root_path": prefix}, receive, send)

        server = uvicorn.Server(uvicorn.Config(below, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://{host}{prefix}/#token={TOKEN}"
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


def clicked(tab: Tab, selector: str) -> None:
    """Click in the middle of something as a person does: what lies there gets the click, or nothing."""
    x, y = tab.js(f"""(() => {{ const found = document.querySelector({selector!r}); found.scrollIntoView();
        const {{ left, top, width, height }} = found.getBoundingClientRect();
        return [left + width / 2, top + height / 2]; }})()""")
    clicked_at(tab, x, y)


def clicked_at(tab: Tab, x: float, y: float) -> None:
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        tab.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, x=x, y=y)


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
        tab.js(
            "document.getElementById('highest').value = '';"
            "document.getElementById('highest').dispatchEvent(new Event('change'))"
        )
        at_rest(tab)
        assert tab.js("document.querySelectorAll('#rows button').length") == len(Labels(reviewed_run)) - 2, "no limit"
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
    def corner(x: float, y: float) -> None:
        box = tab.js("(({left, top}) => [left, top])(document.getElementById('view').getBoundingClientRect())")
        at = tab.js(f"[viewerPoint[0] + {x} * viewerPoint[2], viewerPoint[1] + {y} * viewerPoint[2]]")
        clicked_at(tab, box[0] + at[0], box[1] + at[1])

    with opened_page(address, tmp_path / "profile") as tab:
        ready(tab)
        example = Items(Labels(reviewed_run)).photo(current(tab))
        height, width = example.height_px, example.width_px
        sent_id = current(tab)
        tab.press("1")
        for _ in range(2):  # a double click, of which the second must not save
            clicked(tab, "[data-action=redraw]")
        tab.wait_for("!document.getElementById('drawing').hidden")
        assert tab.js("document.getElementById('show-mask').checked"), "what is drawn is shown"
        for selector in ("[data-action=accept]", "#rows button:not([aria-current])", "#others button", "#later"):
            if tab.js(f"document.querySelector({selector!r}) !== null"):
                clicked(tab, selector)
        at_rest(tab)
        assert not tab.js("document.getElementById('drawing').hidden") and current(tab) == sent_id
        clicked(tab, "#clear")
        assert tab.js("document.activeElement.id") == "view", "Space and Enter are the tool's again"
        tab.js("document.getElementById('size').focus()")
        tab.press("ArrowRight")
        assert tab.js("document.getElementById('size').value") == "21", "arrows are the slider's where it has the focus"
        tab.send("Input.dispatchKeyEvent", type="keyDown", key="[", modifiers=1, windowsVirtualKeyCode=219)
        assert tab.js("document.getElementById('size').value") == "17", "also where [ is typed with Option or AltGr"
        tab.press("p")
        # Where the photo lies in the view: it is fitted, with a margin.
        tab.js(f"""(() => {{ const c = document.getElementById('view');
            const zoom = Math.min(c.clientWidth / {width}, c.clientHeight / {height}) * .97;
            window.viewerPoint = [(c.clientWidth - {width} * zoom) / 2, (c.clientHeight - {height} * zoom) / 2, zoom];
            }})()""")
        left, top, right, bottom = 4, 6, width - 8, height - 10
        corner(left, top)
        tab.press("Enter")
        said(tab, "The polygon has too few corners.")
        for x, y in ((right, top), (right, bottom), (left, bottom)):
            corner(x, y)
        clicked(tab, "#keep")
        said(tab, "The polygon is not filled.")
        assert not (reviewed_run / FILE).exists()
        tab.press("Enter")
        tab.wait_for("document.getElementById('polygon').getAttribute('aria-pressed') === 'true'")
        for x, y in ((left, top), (width // 2, top), (width // 2, bottom), (left, bottom)):
            corner(x, y)
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

        theirs.press("u")  # what they did does not hold any more: it is shown, and nothing is taken back
        said(theirs, "Nothing was undone: anna said 'redrawn' at ")
        journal.refresh()
        assert current(theirs) == sent_id and journal.state(sent_id) == "redrawn"

        second, second_id = ready(mine), current(mine)
        mine.press("d", "c", " ")
        mine.wait_for("!document.getElementById('drawing').hidden")
        theirs.press("j")
        ready(theirs, second)
        theirs.press("d", "c", " ", "ArrowRight", " ", "Enter")
        said(theirs, f"Saved: “{second}” is redrawn")
        mine.press("Enter")
        said(mine, "not saved: anna said 'redrawn' at ")
        mine.press("Escape")
        said(mine, "Cancelled")
        mine.press("a")
        said(mine, "its own mask is not what is shown; undo that first")
        journal.refresh()
        assert [action.action for action in journal.history(second_id)] == ["redraw"]


def without_photo(run: Path) -> None:
    """Let the photo of a run's first item be missing, for all texts about it."""
    path = run / "examples" / "unlabeled.parquet"
    table = pq.read_table(path)
    first = table["image_id"][0]
    places = [
        f"{place}.gone" if number == first else place
        for place, number in zip(table["image_path"].to_pylist(), table["image_id"], strict=True)
    ]
    pq.write_table(table.set_column(table.column_names.index("image_path"), "image_path", pa.array(places)), path)


def test_hostile_words_are_shown_as_words_and_a_missing_photo_as_none(reviewed_run: Path, tmp_path: Path) -> None:
    hostile(reviewed_run, HOSTILE)
    without_photo(reviewed_run)
    with served(reviewed_run, "<b>anna</b>") as address, opened_page(address, tmp_path / "profile") as tab:
        ready(tab)
        tab.js(
            "document.getElementById('text').value = 'onerror';"
            "document.getElementById('text').dispatchEvent(new Event('input'))"
        )
        tab.wait_for("document.querySelectorAll('#rows button').length === 1")
        tab.wait_for("document.getElementById('expression').textContent.includes('onerror=')")
        at_rest(tab)
        tab.js("new Promise((drawn) => requestAnimationFrame(() => drawn(1)))")
        assert tab.js("document.getElementById('says').className") == "wrong" and pixels(tab) == 0
        for key in ("a", "d", "n"):
            tab.press(key)
            said(tab, "There is no photo to look at: you can only reject the label, or undo.")
        assert tab.js("document.getElementById('drawing').hidden") and not (reviewed_run / FILE).exists()
        tab.js("document.getElementById('text').focus()")
        tab.press("Escape")
        assert tab.js("document.getElementById('text').value") == "onerror", "the list still is what it says"
        tab.press("r")
        said(tab, "<script>alert(1)</script>")
        tab.js(
            "document.getElementById('text').value = '';"
            "document.getElementById('text').dispatchEvent(new Event('input'));"
            "document.getElementById('view').focus()"
        )
        tab.wait_for("document.querySelectorAll('#rows button').length > 1")
        tab.press("j")
        at_rest(tab)
        tab.press("u")
        said(tab, "Undone: “")
        assert [action.action for action in Journal(reviewed_run).decisions()] == []
        assert tab.js("document.querySelectorAll('b, img, script:not([src])').length") == 0
        assert tab.js("document.title") == f"{reviewed_run.name}: L2L review"
        assert tab.js("document.getElementById('reviewer').textContent") == "as <b>anna</b>"
        assert [one for one in tab.complaints if "Failed to load resource" not in one] == []


@contextmanager
def own_process(run: Path, port: int, token: str = TOKEN) -> Iterator[subprocess.Popen[str]]:
    """Run `l2l review` as a person does; ready when it has told its address."""
    command = [sys.executable, "-m", "l2l_ray.cli", "review", str(run), "--port", str(port), "--no-browser"]
    process = subprocess.Popen(
        [*command, "--reviewer", "anna"], stdout=subprocess.PIPE, text=True, env={**os.environ, "L2L_TOKEN": token}
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"review     http://127.0.0.1:{port}/#token={quote(token, safe='')}\n"
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
            tab.press("PageDown")
            said(tab, "The server does not answer. Is ")
            tab.press("w")
            said(tab, "Your decision is kept in this browser")
            other = "fedcba98+%41&#<\"'=10"  # as when the server makes a new token
            with own_process(reviewed_run, port, other):
                said(tab, "This tab does not have the server's token.")
                tab.send("Page.navigate", url=f"http://127.0.0.1:{port}/#token={quote(other, safe='')}")
                said(tab, "A decision that was not saved before is saved now.")
                # Two redrawn masks that an earlier page could not save, and that come too late; one of another run.
                height, width = Items(Labels(reviewed_run)).details(first_id, Journal(reviewed_run))["size"]
                own = work_of(reviewed_run, "anna", Labels(reviewed_run))
                for i, whose in enumerate([own, own, "another run"]):
                    decision = {
                        "action": "redraw",
                        "upon": 0,
                        "key": f"12345678-{i}",
                        "counts": [0, height, height * (width - 1)],
                    }
                    kept = json.dumps({"run": whose, "sentId": first_id, "decision": decision})
                    tab.js(f"localStorage.setItem('l2l-review-unsaved:{i}', {kept!r})")
                tab.send("Page.reload")
                said(tab, "not saved: anna said 'rejected' at ")
                assert current(tab) == first_id and "1 more could not be saved" in tab.js("document.body.innerText")
                assert not tab.js("document.getElementById('drawing').hidden"), "its drawing is on the screen"
                left = tab.js("Object.keys(localStorage).sort()")
                assert len(left) == 2 and left[1] == "l2l-review-unsaved:2"
    journal = Journal(reviewed_run)
    states = [journal.state(sent_id) for sent_id in (first_id, second_id, third_id)]
    assert states == ["rejected", "no such object", "wrong object"] and first != second
    assert len((reviewed_run / FILE).read_text().splitlines()) == 3
