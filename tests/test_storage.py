"""Paths in a real S3-compatible store: read, listed and compared as paths of this machine are; copies are bounded."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest

from l2l_ray import storage
from l2l_ray.errors import ConfigError, L2LError
from l2l_ray.files import remove_tree
from l2l_ray.storage import StorePath, file_system, here, local_copy, place
from tests.object_store import ObjectStore


def test_words_name_a_store_or_this_machine() -> None:
    assert isinstance(place("s3://bucket/runs"), StorePath)
    assert place("runs/a") == Path("runs/a") and not isinstance(place("runs/a"), StorePath)
    assert place("~/runs").expanduser() == Path.home() / "runs"


def test_a_file_url_is_a_path_of_this_machine(tmp_path: Path) -> None:
    assert place(f"file://{tmp_path}/runs") == here(f"file://{tmp_path}/runs") == tmp_path / "runs"
    assert not isinstance(place(f"file://{tmp_path}/runs"), StorePath)
    with pytest.raises(ConfigError, match="'file://runs' names no place of this machine; expected file:///folder, or"):
        place("file://runs")


def test_a_store_whose_keys_begin_with_a_slash_is_listed_and_emptied() -> None:
    run = place("memory://root/run")
    (run / "a" / "one.txt").write_text("1")
    assert [str(found) for found in run.iterdir()] == ["memory://root/run/a"]
    assert [str(found) for found in run.rglob("*")] == ["memory://root/run/a/one.txt"]
    remove_tree(run)
    assert not (run / "a" / "one.txt").exists()


def test_it_is_joined_taken_apart_compared_and_pickled_as_a_path() -> None:
    path = place("s3://bucket/runs") / "demo" / "config.yaml"
    assert str(path) == "s3://bucket/runs/demo/config.yaml" and path.suffix == ".yaml"
    assert str(path.parent) == "s3://bucket/runs/demo" and str(path.with_name("x")) == "s3://bucket/runs/demo/x"
    assert path.relative_to(place("s3://bucket/runs")).as_posix() == "demo/config.yaml"
    assert path == place("s3://bucket/runs/demo/config.yaml") != place("s3://other/runs/demo/config.yaml")
    again = pickle.loads(pickle.dumps(path))
    assert again == path and str(again) == str(path) and hash(again) == hash(path)
    assert path.absolute() == path.resolve() == path.expanduser() == path


def test_what_needs_a_file_of_this_machine_is_refused_by_name() -> None:
    with pytest.raises(L2LError, match="s3://bucket/runs lies in an object store, and this needs a file or folder of"):
        open(place("s3://bucket/runs"))


def test_a_store_without_a_driver_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="nowhere:// is no store that fsspec knows"):
        place("nowhere://bucket/runs").exists()


def test_objects_are_written_read_asked_about_listed_and_removed(store: ObjectStore) -> None:
    root = store.place("objects")
    assert not root.exists() and not root.is_dir() and list(root.glob("*")) == []
    (root / "a" / "one.txt").write_text("één")
    (root / "a" / "two.txt").write_bytes(b"2")
    (root / "b.json").write_text("{}")
    assert (root / "a" / "one.txt").read_text() == "één" and (root / "a").is_dir() and not (root / "a").is_file()
    assert (root / "b.json").is_file() and (root / "b.json").stat().st_size == 2
    assert abs((root / "b.json").stat().st_mtime - time.time()) < 60
    assert [found.name for found in root.iterdir()] == ["a", "b.json"]
    assert [found.relative_to(root).as_posix() for found in root.glob("*/*.txt")] == ["a/one.txt", "a/two.txt"]
    assert [found.name for found in root.glob("*/two.txt")] == ["two.txt"] and not list(root.glob("*/three.txt"))
    assert sorted(found.name for found in root.rglob("*.txt")) == ["one.txt", "two.txt"]
    with (root / "a" / "one.txt").open(encoding="utf-8") as file:
        assert file.read() == "één"
    (root / "b.json").unlink()
    assert not (root / "b.json").exists()
    with pytest.raises(FileNotFoundError):
        (root / "b.json").read_bytes()
    with pytest.raises(FileNotFoundError):
        list((root / "absent").iterdir())


def test_another_content_has_another_inode(store: ObjectStore) -> None:
    path = store.place("inode.txt")
    path.write_text("one")
    before = path.stat()
    path.write_text("two")
    assert path.stat().st_ino != before.st_ino and path.stat().st_size == before.st_size


def test_a_second_writer_of_a_new_object_is_refused(store: ObjectStore) -> None:
    path = store.place("only-one")
    path.write_bytes(b"first", only_new=True)
    with pytest.raises(FileExistsError):
        path.write_bytes(b"second", only_new=True)
    assert path.read_bytes() == b"first"


def test_why_nothing_can_be_kept_there_is_said(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.place("runs").why_unusable() is None
    assert StorePath("s3://no-such-bucket/runs").why_unusable() == "there is no s3://no-such-bucket"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    file_system.cache_clear()
    with pytest.raises(OSError, match="127.0.0.1:9"):  # not "no", or a run would begin anew
        store.place("runs").exists()
    file_system.cache_clear()


def test_a_copy_is_fetched_once_and_again_when_the_object_changed(store: ObjectStore) -> None:
    path = store.place("photo.jpg")
    path.write_bytes(b"first")
    copy = local_copy(path)
    assert copy.read_bytes() == b"first" and copy.suffix == ".jpg"
    changed = copy.stat().st_ino
    assert local_copy(path) == copy and copy.stat().st_ino == changed
    path.write_bytes(b"other")
    assert local_copy(path).read_bytes() == b"other"
    assert local_copy(copy) == copy, "a file of this machine is its own"


def test_the_least_recently_used_copies_go(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "CACHE_BYTES", 250)
    monkeypatch.setattr(storage, "KEPT_S", 0.0)
    copies = []
    for number in range(4):
        path = store.place(f"large-{number}")
        path.write_bytes(bytes([number]) * 100)
        copies.append(local_copy(path))
        time.sleep(0.02)
    assert [copy.exists() for copy in copies] == [False, False, True, True]
