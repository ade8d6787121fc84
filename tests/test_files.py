"""Files and folders that appear whole or not at all: what is left of an error, a full disk, a kill and a race."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from l2l_ray.files import (
    MARKER,
    is_whole,
    locked,
    move,
    new_file,
    new_folder,
    on_network,
    refuses_a_second,
    remove_tree,
    replacing,
    replacing_folder,
    sync,
    temporary_path,
)
from l2l_ray.storage import StorePath
from tests.object_store import ObjectStore
from tests.whole_run import FullDisk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "new" / "folder" / "state.json"
    for content in ("first", "second"):
        with replacing(path, durable=durable) as temporary:
            temporary.write_text(content)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == content
    assert names(path.parent) == ["state.json"]


def test_the_temporary_name_is_hidden_beside_its_place_and_ends_in_tmp(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with replacing(path) as temporary:
        temporary.write_text("")
        assert temporary == temporary_path(path)
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".state.json.") and temporary.suffix == ".tmp"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_earlier_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "state.json"
    path.write_text("earlier")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "earlier"
    with pytest.raises(error), replacing(tmp_path / "other") as temporary:
        raise error  # before anything was written
    assert names(tmp_path) == ["state.json"]


def test_a_full_disk_leaves_the_earlier_file_and_nothing_else(tmp_path: Path, full_disk: FullDisk) -> None:
    path = tmp_path / "state.json"
    path.write_text("earlier")
    with full_disk(100), pytest.raises(OSError, match="File too large"), replacing(path) as temporary:
        temporary.write_text("x" * 200)
    assert (path.read_text(), names(tmp_path)) == ("earlier", ["state.json"])


def test_a_file_gets_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with replacing(tmp_path / "replaced") as temporary:
        temporary.write_text("")
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_in_its_place_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    path = tmp_path / "link"
    path.symlink_to(tmp_path / "target")
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert not path.is_symlink() and path.read_text() == "new"
    assert (tmp_path / "target").read_text() == "mine"


def test_a_link_that_a_killed_process_left_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "picture").write_text("mine")
    path = tmp_path / "copy"
    temporary_path(path).symlink_to(tmp_path / "picture")
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert ((tmp_path / "picture").read_text(), path.read_text()) == ("mine", "new")


FILE_WRITER = """
import os, sys
from pathlib import Path
from l2l_ray.files import replacing
for number in range(200):
    with replacing(Path(sys.argv[1])) as temporary:
        temporary.write_text(sys.argv[2] * 10_000)
        if sys.argv[3:] == ["killed"] and number == 100:
            os.kill(os.getpid(), 9)
"""
FOLDER_WRITER = """
import sys
from contextlib import suppress
from pathlib import Path
from l2l_ray.files import replacing_folder
for number in range(200):
    with suppress(FileExistsError), replacing_folder(Path(sys.argv[1])) as temporary:
        (temporary / "content").write_text(sys.argv[2] * 10_000)
"""


def start(code: str, *words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], cwd=Path(__file__).parent.parent)


def test_two_processes_write_one_file_and_every_reader_finds_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "state"
    writers = [start(FILE_WRITER, path, "a"), start(FILE_WRITER, path, "b", "killed")]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        with suppress(FileNotFoundError):  # the first is not there yet
            seen.add(path.read_text())
    assert [writer.returncode for writer in writers] == [0, -9]
    assert seen <= {"a" * 10_000, "b" * 10_000} and seen
    left, state = names(tmp_path)
    assert state == "state" and left.startswith(".state.") and left.endswith(".tmp"), "only what a kill left"


ON_ANOTHER_MACHINE = """
import sys, threading
threading.get_native_id = lambda: 7
from pathlib import Path
from l2l_ray.files import temporary_path
print(temporary_path(Path(sys.argv[1])))
"""


def test_writers_whose_threads_have_one_id_do_not_meet(tmp_path: Path) -> None:
    words = [sys.executable, "-c", ON_ANOTHER_MACHINE, str(tmp_path / "state")]
    first, second = (subprocess.run(words, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first and second and first != second


def test_threads_of_one_process_do_not_meet(tmp_path: Path) -> None:
    def write(number: int) -> None:
        with replacing(tmp_path / "state") as temporary:
            temporary.write_text(str(number) * 10_000)
            assert temporary.read_text() == str(number) * 10_000

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, [n % 8 for n in range(200)]))
    assert names(tmp_path) == ["state"]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "l2l-v0000"
    with new_folder(path) as temporary:
        (temporary / "version.json").write_text("{}")
        assert not path.exists()
    assert names(tmp_path / "runs") == ["l2l-v0000"] and names(path) == ["version.json"]


def test_an_error_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "v0") as temporary:
        (temporary / "half").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_what_a_killed_process_of_this_id_left_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "v0"
    temporary_path(path).mkdir()
    (temporary_path(path) / "half").touch()
    with new_folder(path) as temporary:
        (temporary / "whole").touch()
    assert names(path) == ["whole"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_folder_that_was_made_meanwhile_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "base"
    with pytest.raises(FileExistsError, match="it was made meanwhile"), new_folder(path) as temporary:
        (temporary / "mine").touch()
        if kind == "file":
            path.touch()
        else:
            path.mkdir()
            (path / "theirs").touch()
    assert names(tmp_path) == ["base"]
    assert path.is_file() if kind == "file" else names(path) == ["theirs"]


def _earlier(path: Path) -> None:
    path.mkdir()
    (path / "earlier").touch()


def test_a_folder_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for name in ("first", "second"):
        with replacing_folder(path) as temporary:
            (temporary / name).touch()
        assert names(path) == [name] and names(tmp_path) == ["out"]


def test_an_error_leaves_the_earlier_folder(tmp_path: Path, full_disk: FullDisk) -> None:
    path = tmp_path / "out"
    _earlier(path)
    with full_disk(10), pytest.raises(OSError, match="File too large"), replacing_folder(path) as temporary:
        (temporary / "new").write_text("x" * 100)
    assert names(path) == ["earlier"] and names(tmp_path) == ["out"]


def test_a_rename_that_fails_puts_the_earlier_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    _earlier(path)
    replace = os.replace

    def fails(source: Path, target: Path) -> None:
        if Path(source).suffix == ".tmp":
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="Input/output error"), replacing_folder(path) as temporary:
        (temporary / "new").touch()
    assert names(path) == ["earlier"] and names(tmp_path) == ["out"]


def test_an_earlier_folder_that_a_kill_left_aside_is_not_lost_by_a_second_failure(tmp_path: Path) -> None:
    path = tmp_path / "out"
    _earlier(path)
    os.replace(path, temporary_path(path).with_suffix(".old"))  # killed between the two renames
    with pytest.raises(ValueError, match="again"), replacing_folder(path):
        raise ValueError("again")
    assert names(path) == ["earlier"] and names(tmp_path) == ["out"]


def test_two_processes_replace_one_folder_and_one_of_them_stays(tmp_path: Path) -> None:
    path = tmp_path / "out"
    writers = [start(FOLDER_WRITER, path, content) for content in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert names(tmp_path) == ["out"] and names(path) == ["content"]
    assert (path / "content").read_text() in ("a" * 10_000, "b" * 10_000)


def test_a_link_to_a_folder_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    (real / "mine.txt").write_text("mine")
    link.symlink_to(real)
    with replacing_folder(link) as temporary:
        (temporary / "new.txt").write_text("new")
    assert not link.is_symlink() and (link / "new.txt").read_text() == "new"
    assert (real / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


LOCK_HOLDER = """
import sys
from pathlib import Path
from l2l_ray.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_is_in_a_lock_and_one_that_dies_leaves_it(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "lock"
    command = [sys.executable, "-c", LOCK_HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError, match="another process holds it"), locked(lock, timeout_s=0):
            raise AssertionError("two are inside")
        killer = threading.Timer(0.5, holder.kill)
        killer.start()
        with locked(lock, timeout_s=60):
            assert holder.wait(60) != 0
    with locked(lock, timeout_s=0):
        pass
    assert names(lock.parent) == ["lock"]


def test_an_error_in_a_lock_is_its_own_and_lets_the_next_one_in(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="mine"), locked(tmp_path / "lock"):
        raise TimeoutError("mine")
    with locked(tmp_path / "lock", timeout_s=0):
        pass


@pytest.mark.parametrize(("code", "is_left"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_folder_that_cannot_be_synced_is_left_to_its_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_left: bool
) -> None:
    file = tmp_path / "a"
    file.touch()

    def refused(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refused)
    with nullcontext() if is_left else pytest.raises(OSError, match=os.strerror(code)):
        sync(tmp_path)
    with pytest.raises(OSError, match=os.strerror(code)):
        sync(file)


def test_a_filesystem_of_a_network_is_told_from_a_disk(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    shared, odd = tmp_path / "shared", tmp_path / "a b"
    lines = ["/dev/sda / ext4 rw 0 0", f"server:/x {shared} nfs4 rw 0 0", f"/dev/sdb {shared}/disk xfs rw 0 0"]
    lines += [f"host:/y {str(odd).replace(' ', chr(92) + '040')} fuse.sshfs rw 0 0"]
    lines += ["/dev/sdc /media/a\u2028b ext4 rw 0 0"]
    mounts.write_text("\n".join(lines) + "\n")
    assert on_network(shared / "runs", mounts) and on_network(odd / "runs", mounts)
    assert not on_network(shared / "disk" / "runs", mounts) and not on_network(tmp_path / "other", mounts)
    assert not on_network(tmp_path, tmp_path / "no such file"), "another system"
    assert not on_network(tmp_path)


def test_in_a_store_a_file_is_replaced_whole_or_not_at_all(store: ObjectStore) -> None:
    path = store.place("files/replaced.txt")
    with replacing(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(KeyError), replacing(path, durable=True) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "first" and [found.name for found in path.parent.iterdir()] == ["replaced.txt"]


def test_in_a_store_one_of_two_makes_a_new_file(store: ObjectStore) -> None:
    path = store.place("files/new.txt")
    with new_file(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(FileExistsError), new_file(path) as temporary:
        temporary.write_text("second")
    assert path.read_text() == "first" and refuses_a_second(path)


def test_a_store_that_cannot_refuse_still_makes_the_file(simple_store: ObjectStore) -> None:
    path = simple_store.place("files/new.txt")
    with new_file(path) as temporary:
        temporary.write_text("first")
    assert path.read_text() == "first" and not refuses_a_second(path)


def test_in_a_store_a_folder_without_its_marker_is_not_whole(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, send = store.place("files/folder"), StorePath.send

    def dies(self: StorePath, file: Path) -> None:
        if file.name == MARKER:
            raise OSError("killed")
        send(self, file)

    def write(place: Path, text: str) -> None:
        (place / MARKER).write_text(text)
        (place / "sub").mkdir()
        (place / "sub" / "weights").write_text(text)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"), new_folder(folder) as temporary:
        patch.setattr(StorePath, "send", dies)
        write(temporary, "half")
    assert (folder / "sub" / "weights").exists() and not is_whole(folder)
    with new_folder(folder) as temporary:
        write(temporary, "whole")
    assert is_whole(folder) and (folder / "sub" / "weights").read_text() == "whole"
    with pytest.raises(FileExistsError), new_folder(folder) as temporary:
        write(temporary, "second")
    with replacing_folder(folder) as temporary:
        (temporary / MARKER).write_text("third")
    assert sorted(found.name for found in folder.rglob("*")) == [MARKER]
    move(folder / MARKER, store.place("files/moved"))
    assert store.place("files/moved").read_text() == "third" and not folder.exists()
    remove_tree(folder)
