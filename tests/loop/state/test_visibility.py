"""Files that another node has written: late, or on a disk of its own."""

from __future__ import annotations

import pytest

from l2l_ray.errors import LedgerError
from l2l_ray.loop.state import visibility
from l2l_ray.loop.state.visibility import wait_seen


def test_what_another_node_wrote_is_waited_for_and_then_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visibility, "LOOK_AGAIN_S", 0.01)
    answers = iter([False, False, True])
    wait_seen(lambda: next(answers), "a file", "is not seen")
    assert next(answers, None) is None
    with pytest.raises(LedgerError, match="a file is not seen, even after 0.05 s; expected a file system on which all"):
        wait_seen(lambda: False, "a file", "is not seen", 0.05)
