"""Private folders of clusters: who may look in, whose token is found by an address, and what is removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from l2l_ray.actors import session


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


def _cluster(address: str, token: str | None) -> Path:
    """Make what a cluster at this address leaves in its folder."""
    folder = session.new_folder(token)
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text(address + "\n")
    return folder


def _owned(folder: Path, **changed: object) -> None:
    """Say something else of the process that a folder's cluster ends with."""
    owner = json.loads((folder / "owner.json").read_text())
    (folder / "owner.json").write_text(json.dumps({**owner, **changed}))


def _ended() -> int:
    """Return the process id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_nobody_else_may_look_in() -> None:
    folder = session.new_folder("secret")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "auth_token").stat().st_mode & 0o777 == 0o600


def test_a_token_is_found_by_the_address_alone() -> None:
    one = _cluster("127.0.0.1:1001", "one")
    _cluster("127.0.0.1:1002", "two")
    _cluster("127.0.0.1:1003", None)
    assert session.token_path("127.0.0.1:1001") == one / "auth_token"
    assert session.token_path("localhost:1001") == one / "auth_token"
    assert session.token_path("127.0.0.1:1003") is None, "it asks for none"
    assert session.token_path("127.0.0.1:1004") is None
    assert session.token_path("10.0.0.1:1001") is None, "another machine"


def test_a_folder_that_others_may_change_is_not_believed() -> None:
    folder = _cluster("127.0.0.1:1001", "planted")
    folder.chmod(0o777)
    assert session.token_path("127.0.0.1:1001") is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = _cluster("127.0.0.1:1001", "planted")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert session.token_path("127.0.0.1:1001") is None


def test_what_a_killed_cluster_left_is_removed_when_the_next_starts_and_nothing_else(tmp_path: Path) -> None:
    gone, alive, starting = (session.new_folder() for _ in range(3))
    session.own(alive, os.getppid())
    (gone / "spilled").write_bytes(b"x" * 1000)
    _owned(gone, pid=_ended(), start_time="1")
    (starting / "owner.json").unlink()
    other = tmp_path / "l2l-other"
    other.mkdir()
    new = session.new_folder()
    assert not gone.exists()
    assert all(folder.exists() for folder in (alive, starting, other, new))
    os.utime(starting, (1.0, 1.0))
    session.remove_abandoned()
    assert not starting.exists(), "nobody took it within a minute"


def test_a_process_id_that_was_given_away_is_not_taken_for_the_owner() -> None:
    folder = session.new_folder()
    _owned(folder, start_time="another time")
    session.remove_abandoned()
    assert not folder.exists()


def test_a_cluster_of_another_machine_keeps_its_folder_and_its_token() -> None:
    """Where the temporary folder is shared, its processes are not seen from here."""
    folder = _cluster("127.0.0.1:1001", "another's")
    assert session.elsewhere(folder) is None
    _owned(folder, machine="node7 a1b2 pid:[4026531836]", pid=_ended(), start_time="1")
    session.new_folder()
    assert (folder / "auth_token").exists()
    assert session.elsewhere(folder) == "node7"
    assert session.token_path("127.0.0.1:1001") is None, "the same address is another cluster here"
