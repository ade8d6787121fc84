"""A page for several people in a real browser: it lies under a prefix, asks for a name once, and takes another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from l2l_ray.review.journal import FILE, Journal
from tests.browser import CHROMIUM, Tab, opened_page, opened_tab
from tests.review.test_page import at_rest, current, ready, said, served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium, which no package of ours brings")


def named(tab: Tab, name: str) -> None:
    """Answer the page's question with a name, by keyboard."""
    tab.wait_for("document.getElementById('who').open && document.activeElement.id === 'name'")
    tab.js("document.getElementById('name').select()")
    tab.send("Input.insertText", text=name)
    tab.press("Enter")


def shown_as(tab: Tab) -> str:
    return str(tab.js("document.getElementById('reviewer').textContent"))


def test_each_says_a_name_once_and_decides_under_it(reviewed_run: Path, tmp_path: Path) -> None:
    with (
        served(reviewed_run, None, "/review") as address,
        opened_page(address.replace("/review/", "/review"), tmp_path / "profile") as tab,
    ):
        tab.wait_for("document.getElementById('who')?.open")
        assert "asks who decides, got no name" in tab.js("document.getElementById('who-says').textContent")
        tab.press("Escape")
        tab.wait_for("document.getElementById('who').open")
        named(tab, "bell \u202e")
        tab.wait_for("document.getElementById('who-says').textContent.includes('printable characters')")
        named(tab, "  Jürgen  B. ")
        ready(tab)
        first_id = current(tab)
        assert tab.js("location.pathname") == "/review/" and shown_as(tab) == "as Jürgen B."
        assert not (reviewed_run / FILE).exists(), "no key of the name was a decision"
        tab.press("r")
        said(tab, "is rejected.")
        with opened_tab(address, tmp_path / "profile") as other:
            ready(other)
            assert shown_as(other) == "as Jürgen B.", "a new tab does not ask again"
            other.press("d")
            other.wait_for("!document.getElementById('drawing').hidden")
            assert other.js("document.getElementById('rename').inert"), "a drawing would be lost"
            other.press("Escape")
            at_rest(other)
            other.js("document.getElementById('rename').click()")
            named(other, "ben")
            other.wait_for("document.getElementById('reviewer')?.textContent === 'as ben'")
            ready(other)
            second_id = current(other)
            other.press("w")
            said(other, "is wrong object.")
        assert current(tab) == second_id
        tab.press("n")
        said(tab, "not saved: ben said 'wrong object' at ")
        tab.send("Page.reload")
        tab.wait_for("document.readyState === 'complete'")
        ready(tab)
        assert shown_as(tab) == "as Jürgen B.", "a tab keeps its name, whatever another one says"
        assert [one for one in tab.complaints if "Failed to load resource" not in one] == []
    journal = Journal(reviewed_run)
    assert journal.history(first_id)[0].reviewer == "Jürgen B." and journal.history(second_id)[0].reviewer == "ben"


def test_a_server_for_one_person_asks_for_no_name(reviewed_run: Path, tmp_path: Path) -> None:
    with served(reviewed_run, "anna") as address, opened_page(address, tmp_path / "profile") as tab:
        ready(tab)
        assert shown_as(tab) == "as anna" and tab.js("document.getElementById('rename').hidden")
        assert not tab.js("document.getElementById('who').open")
