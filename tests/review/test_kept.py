"""What becomes of a decision where something else than its server answers, and where a page is opened without TLS."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from l2l_ray.review.app import make_app
from l2l_ray.review.journal import FILE, Journal
from l2l_ray.serving.access import sha256_of
from l2l_ray.serving.guard import said as refusal
from tests.browser import CHROMIUM, WAIT_S, Tab, opened_page
from tests.review.test_page import TOKEN, current, ready, said, served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium, which no package of ours brings")


class Proxy:
    """Answers decisions itself, as long as it has an answer."""

    def __init__(self) -> None:
        self.answer: Response | None = None
        self.num_answered = 0
        self.app: ASGIApp | None = None  # in the place of its server's

    def wait_for(self, num: int) -> None:
        deadline = time.monotonic() + WAIT_S
        while self.num_answered < num:
            assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {num} answers, got {self.num_answered}"
            time.sleep(0.05)

    def before(self, app: ASGIApp) -> ASGIApp:
        async def between(scope: Scope, receive: Receive, send: Send) -> None:
            is_decision = scope["type"] == "http" and scope["path"].endswith("/actions")
            answer = self.answer if is_decision else None
            self.num_answered += answer is not None
            await (answer or self.app or app)(scope, receive, send)

        return between


@contextmanager
def rejected_behind(run: Path, profile: Path, answer: Response) -> Iterator[tuple[Tab, Proxy, int]]:
    """Give a page on which a label was rejected while a proxy answers in the server's place; the label's id."""
    proxy = Proxy()
    with served(run, proxy=proxy.before) as address, opened_page(address, profile) as tab:
        ready(tab)
        sent_id = current(tab)
        proxy.answer = answer
        tab.press("r")
        yield tab, proxy, sent_id


def num_kept(tab: Tab) -> int:
    code = "Object.keys(localStorage).filter((name) => name.startsWith('l2l-review-unsaved:')).length"
    return int(tab.js(code))


def test_without_tls_under_another_name_decisions_are_saved(reviewed_run: Path, tmp_path: Path) -> None:
    with (
        served(reviewed_run, name="node7") as address,
        opened_page(address, tmp_path / "profile", "--host-resolver-rules=MAP node7 127.0.0.1") as tab,
    ):
        ready(tab)
        assert not tab.js("isSecureContext"), "or this test is none"
        for key in "rr":
            tab.press(key)
            ready(tab)
        said(tab, "is rejected.")
        assert tab.complaints == [] and num_kept(tab) == 0
    keys = [json.loads(line)["key"] for line in (reviewed_run / FILE).read_text().splitlines()]
    assert len(set(keys)) == 2 and all(len(key) == 32 for key in keys)


@pytest.mark.parametrize(
    "answer",
    [
        Response("<h1>Bad Gateway</h1>", 502),
        refusal(503, "no replica"),
        Response("Internal Server Error", 500),
        Response("Path not found", 404),
        refusal(404, "Not Found: expected POST /v1/masks"),  # the predictors' application, before this one is up
    ],
    ids=["502", "503 with error", "500", "404", "404 with error"],
)
def test_where_a_proxy_answers_a_decision_is_sent_until_the_server_does(
    reviewed_run: Path, tmp_path: Path, answer: Response
) -> None:
    with rejected_behind(reviewed_run, tmp_path / "profile", answer) as (tab, proxy, sent_id):
        said(tab, "our decision is kept in this browser")
        num = proxy.num_answered
        tab.send("Page.reload")  # an older decision is kept as well
        proxy.wait_for(num + 2)
        said(tab, "our decision is kept in this browser")
        assert num_kept(tab) == 1 and not (reviewed_run / FILE).exists()
        proxy.answer = None
        said(tab, "A decision that was not saved before is saved now.")
        assert num_kept(tab) == 0
    assert Journal(reviewed_run).state(sent_id) == "rejected"


@pytest.mark.parametrize(
    "answer",
    [Response("Request Entity Too Large", 413), refusal(500, "an error of this server: KeyError")],
    ids=["413 of a proxy", "500 with error"],
)
def test_what_may_never_succeed_stays_kept_and_the_page_can_be_used(
    reviewed_run: Path, tmp_path: Path, answer: Response
) -> None:
    with rejected_behind(reviewed_run, tmp_path / "profile", answer) as (tab, proxy, sent_id):
        said(tab, "sent when the page is opened on this run again.")
        assert num_kept(tab) == 1 and current(tab) == sent_id
        tab.send("Page.reload")
        tab.wait_for("document.readyState === 'complete'")
        said(tab, "sent when the page is opened on this run again.")
        ready(tab)
        assert num_kept(tab) == 1 and current(tab) == sent_id
        tab.press("j")
        ready(tab)
        assert current(tab) != sent_id
        proxy.answer = None
        tab.send("Page.reload")
        said(tab, "A decision that was not saved before is saved now.")
        assert num_kept(tab) == 0
    assert Journal(reviewed_run).state(sent_id) == "rejected"


def test_what_the_server_refuses_is_not_kept(reviewed_run: Path, tmp_path: Path) -> None:
    no = refusal(422, "the label has no pixel")
    with rejected_behind(reviewed_run, tmp_path / "profile", no) as (tab, _, _):
        said(tab, "the label has no pixel")
        assert num_kept(tab) == 0 and not (reviewed_run / FILE).exists()


def test_where_the_runs_folder_is_gone_a_decision_is_kept_and_saved_when_it_is_back(
    reviewed_run: Path, tmp_path: Path
) -> None:
    archived = reviewed_run.with_name("archived")
    with served(reviewed_run) as address, opened_page(address, tmp_path / "profile") as tab:
        ready(tab)
        sent_id = current(tab)
        reviewed_run.rename(archived)
        tab.press("r")
        said(tab, "not saved: the run is no longer in ")
        said(tab, "kept in this browser and sent when the page is opened on this run again.")
        assert num_kept(tab) == 1 and not reviewed_run.exists()
        archived.rename(reviewed_run)
        tab.send("Page.reload")
        said(tab, "A decision that was not saved before is saved now.")
        ready(tab)
        reviewed_run.rename(archived)
        tab.press("r")
        said(tab, "not saved: the run is no longer in ")
        archived.rename(reviewed_run)
        tab.press("r")
        said(tab, "is rejected.")
        assert num_kept(tab) == 0, "what was decided anew is not sent once more"
        ready(tab)
        tab.press("j")
        ready(tab)
        (reviewed_run / FILE).unlink()
        tab.press("r")
        said(tab, "was replaced, cut or removed by something else")
    assert Journal(reviewed_run).state(sent_id) == "open" and len(Journal(reviewed_run)) == 1


def test_a_decision_about_an_earlier_run_of_the_folder_is_named_and_not_sent(
    reviewed_run: Path, tmp_path: Path
) -> None:
    proxy, ledger = Proxy(), reviewed_run / "ledger.jsonl"
    before = ledger.read_bytes()
    with served(reviewed_run, proxy=proxy.before) as address, opened_page(address, tmp_path / "profile") as tab:
        ready(tab)
        proxy.answer = Response("Bad Gateway", 502)
        tab.press("r")
        said(tab, "our decision is kept in this browser")
        # A run with the same settings takes the place of this one, and its server that of this one's, under its port.
        first, *others = before.splitlines(keepends=True)
        entry = {name: value for name, value in json.loads(first).items() if name != "crc32"}
        ledger.write_bytes(json.dumps({**entry, "seconds": 77.0}).encode() + b"\n" + b"".join(others))
        proxy.app = review_app(reviewed_run, address)
        proxy.answer = None
        said(tab, "not saved: this decision is about another run")
        assert num_kept(tab) == 1
        tab.send("Page.reload")
        said(tab, "1 decision kept for an earlier run of this folder is not sent")
        ready(tab)
        tab.send("Page.reload")
        tab.wait_for("document.readyState === 'complete'")
        ready(tab)
        assert "earlier run" not in tab.js("document.body.innerText"), "it is said once"
        assert num_kept(tab) == 1 and not (reviewed_run / FILE).exists()
        ledger.write_bytes(before)
        proxy.app = review_app(reviewed_run, address)
        tab.send("Page.reload")
        said(tab, "A decision that was not saved before is saved now.")
        assert num_kept(tab) == 0


def review_app(run: Path, address: str) -> ASGIApp:
    """Return what a server that begins anew at an address answers with."""
    return make_app(run, "anna", sha256_of(TOKEN), frozenset({address.partition("/#")[0]}))
