"""What the page shows around the photo: counts that agree with the list, and the keys on a narrow screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from l2l_ray.review.journal import Journal
from l2l_ray.review.labels import Labels
from tests.browser import CHROMIUM, opened_page
from tests.review.test_page import at_rest, current, ready, served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium, which no package of ours brings")


def test_the_header_agrees_with_the_list_beside_it(reviewed_run: Path, tmp_path: Path) -> None:
    with served(reviewed_run) as address, opened_page(address, tmp_path / "profile") as tab:
        ready(tab)
        labels = Labels(reviewed_run)
        others = [int(sent_id) for sent_id in labels.sent_ids if sent_id != current(tab)]
        theirs = Journal(reviewed_run)
        theirs.add(others[0], "reject", "ben", 0, "of another server")
        tab.js("document.getElementById('state').dispatchEvent(new Event('change'))")
        tab.wait_for(f"document.getElementById('found').textContent.includes(' of {len(labels) - 1},')")
        assert "1 of " in tab.js("document.getElementById('counts').textContent")
        theirs.add(others[1], "reject", "ben", 0, "of another server, too")
        at_rest(tab)
        tab.press("j")
        tab.wait_for("document.getElementById('counts').textContent.startsWith('2 of ')")


def test_the_keys_are_shown_from_their_beginning_on_a_narrow_screen(reviewed_run: Path, tmp_path: Path) -> None:
    with served(reviewed_run) as address, opened_page(address, tmp_path / "profile") as tab:
        ready(tab)
        tab.send("Emulation.setDeviceMetricsOverride", width=400, height=700, deviceScaleFactor=1, mobile=False)
        tab.press("?")
        tab.wait_for("document.getElementById('help').open")
        top, width, inner = tab.js(
            "(({ scrollTop, scrollWidth, clientWidth }) => [scrollTop, scrollWidth, clientWidth])"
            "(document.getElementById('help'))"
        )
        assert top == 0 and width <= inner, "nothing is cut off"
        tab.press("Escape")
        tab.wait_for("!document.getElementById('help').open")
