"""The columns of a REFER data set on disk: mapped or made again, and a cache that never makes anything fail."""

import json
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import l2l_ray.data.refer_cache as refer_cache
from l2l_ray.data.refer import ReferDataset
from l2l_ray.data.refer_cache import ReferCache, default_folder, read_columns, write_columns
from l2l_ray.data.refer_files import ImageRow
from l2l_ray.errors import DataError
from tests.opened_files import opened_files

COLUMNS = {"id": np.arange(9, dtype="<i8"), "bytes": np.frombuffer(b"left man", dtype=np.uint8)}


@pytest.mark.parametrize("cut", [0, 5, 30, -1, -64])
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a"
    write_columns(path, COLUMNS)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"not a whole file of columns|empty file"):
        read_columns(path)


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_columns(path, COLUMNS)
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="not a whole file of columns"):
        read_columns(path)


class Sources:
    """The two files of a data set of one ref, and a cache beside them."""

    def __init__(self, root: Path) -> None:
        self.refs, self.instances = root / "refcoco/refs(unc).p", root / "refcoco/instances.json"
        self.root, self.cache = root, root / "cache"
        self.refs.parent.mkdir(parents=True)
        sentences = [{"sent_id": 7, "sent": "cat"}]
        ref = {"ref_id": 3, "ann_id": 5, "image_id": 9, "split": "train", "sentences": sentences}
        self.refs.write_bytes(pickle.dumps([ref, {**ref, "ref_id": 4, "split": "val", "sentences": []}]))
        self.content: dict[str, Any] = {
            "images": [{"id": 9, "file_name": "9.jpg", "width": 8, "height": 6}],
            "annotations": [{"id": 5, "image_id": 9, "category_id": 2, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}],
            "categories": [{"id": 2, "name": "cat"}],
        }
        self.write()

    def write(self) -> None:
        self.instances.write_text(json.dumps(self.content))

    def open(self) -> ReferCache:
        return ReferCache(self.refs, self.instances, self.cache)

    def dataset(self) -> ReferDataset:
        return ReferDataset.open(self.root, "refcoco", "unc", cache_dir=self.cache)

    def cached(self) -> list[str]:
        return sorted(path.suffix for path in self.cache.glob("*.*") if path.is_file())


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path)


@pytest.fixture
def no_parsing(monkeypatch: pytest.MonkeyPatch, sources: Sources) -> Sources:
    """Give sources that are cached already and can be parsed no more."""
    sources.open()

    def parsed(*_: Any) -> Any:
        raise AssertionError("a source was parsed")

    monkeypatch.setattr(refer_cache, "read_refs", parsed)
    monkeypatch.setattr(refer_cache, "read_instances", parsed)
    return sources


def test_the_second_start_parses_nothing(no_parsing: Sources) -> None:
    cache = no_parsing.open()
    assert [ref.ref_id for ref in cache.refs.take()] == [3, 4]
    truth = cache.truths.truth(5)
    assert truth and truth.category_id == 2
    assert no_parsing.cached() == [".refs", ".truth"]


def test_other_content_or_another_format_is_parsed_anew(no_parsing: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    no_parsing.content["images"][0]["width"] = 7
    no_parsing.write()
    with pytest.raises(AssertionError, match="a source was parsed"):
        no_parsing.open()
    no_parsing.content["images"][0]["width"] = 8
    no_parsing.write()
    no_parsing.open()
    monkeypatch.setattr(refer_cache, "FORMAT", -1)
    with pytest.raises(AssertionError, match="a source was parsed"):
        no_parsing.open()


def test_changed_content_of_the_same_size_and_time_is_noticed(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refer_cache, "AT_REST_NS", -1)
    first = sources.open()
    before = sources.instances.stat()
    (stamp,) = [p for p in (sources.cache / "stamps").iterdir() if "instances" in p.read_text()]
    time.sleep(0.05)  # more than a tick of the file system's clock
    data = sources.instances.read_bytes().replace(b'"width": 8', b'"width": 7')
    sources.instances.write_bytes(data)
    os.utime(sources.instances, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = sources.instances.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert json.loads(stamp.read_text())["sha256"]
    assert [c.refs.image(9) for c in (first, sources.open())] == [
        ImageRow("9.jpg", 8, 6),
        ImageRow("9.jpg", 7, 6),
    ]


def test_files_that_just_changed_are_not_remembered(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    sources.open()
    assert not (sources.cache / "stamps").exists()
    monkeypatch.setattr(refer_cache, "AT_REST_NS", -1)
    sources.open()
    assert len(list((sources.cache / "stamps").iterdir())) == 2
    monkeypatch.setattr(refer_cache.hashlib, "file_digest", lambda *_: pytest.fail("a source was read"))
    sources.open()


@pytest.mark.parametrize("damage", [b"", b"{}", b"[", b'{"stamp": 5}', b"\xff"])
def test_a_damaged_stamp_is_ignored(sources: Sources, monkeypatch: pytest.MonkeyPatch, damage: bytes) -> None:
    monkeypatch.setattr(refer_cache, "AT_REST_NS", -1)
    expected = sources.open().key
    for path in (sources.cache / "stamps").iterdir():
        path.write_bytes(damage)
    assert sources.open().key == expected


@pytest.mark.parametrize("part", ["refs", "truth"])
def test_a_damaged_cache_is_made_again(sources: Sources, part: str, caplog: pytest.LogCaptureFixture) -> None:
    sources.open()
    (path,) = sources.cache.glob(f"*.{part}")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    examples, _ = sources.dataset().labeled_examples("train")
    assert [(e.sent_id, e.category) for e in examples] == [(7, "cat")]
    assert "is unusable and is made again" in caplog.text
    assert path.read_bytes() == whole


def test_a_place_that_cannot_be_written_costs_a_warning(sources: Sources, caplog: pytest.LogCaptureFixture) -> None:
    sources.cache.write_text("a file where a folder should be")  # root may write anywhere, so no permission will do
    data = sources.dataset()
    assert data.examples("train")[0] and data.labeled_examples("train")[0]
    assert "cannot be cached, the next start parses it again" in caplog.text


def test_a_full_disk_costs_a_warning_and_leaves_nothing(
    sources: Sources, full_disk: Callable[[int], AbstractContextManager[None]], caplog: pytest.LogCaptureFixture
) -> None:
    with full_disk(100):
        data = sources.dataset()
        assert data.examples("train")[0] and data.labeled_examples("train")[0]
    assert "cannot be cached, the next start parses it again: [Errno 27]" in caplog.text
    assert not [path for path in sources.cache.rglob("*") if path.is_file()]


def test_many_may_open_an_uncached_data_set_at_once(sources: Sources) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: sources.dataset(), range(24)))
    assert len({data.digest for data in opened}) == 1
    assert all(data.labeled_examples("train") == opened[0].labeled_examples("train") for data in opened)
    assert sources.cached() == [".refs", ".truth"] and not list(sources.cache.rglob("*.tmp"))


def test_the_cache_lies_under_the_run_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("L2L_HOME", str(tmp_path / "here"))
    assert default_folder() == tmp_path / "here/cache/refer"
    monkeypatch.delenv("L2L_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / "l2l_runs/cache/refer"


def test_unlabeled_access_opens_no_file_that_holds_truth(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refer_cache, "AT_REST_NS", -1)
    sources.dataset()

    def unlabeled() -> None:
        data = sources.dataset()
        assert data.examples("train")[0] and data.digest and data.image_ids("train") == [9] and data.refs()

    with opened_files() as opened:
        unlabeled()
    assert [Path(name).suffix for name in opened if name.startswith(str(sources.cache))] == [".json", ".json", ".refs"]
    assert not [name for name in opened if name.endswith((".truth", "instances.json"))]
    with opened_files() as labeled:
        sources.dataset().labeled_examples("train")
    assert sum(name.endswith(".truth") for name in labeled) == 1


def test_unlabeled_access_is_the_same_where_truth_is_deleted(sources: Sources) -> None:
    data = sources.dataset()
    expected = data.examples("train"), data.image_ids("train"), data.digest, data.refs()
    for item in sources.content["annotations"]:
        for key in ("segmentation", "category_id"):
            del item[key]
    sources.write()
    for path in sources.cache.glob("*.truth"):
        path.unlink()
    bare = sources.dataset()
    assert (bare.examples("train"), bare.image_ids("train"), bare.digest, bare.refs()) == expected
    assert [skip.kind for skip in bare.labeled_examples("train")[1]] == ["missing_mask"]


def test_sources_that_changed_under_an_open_data_set_are_an_error(sources: Sources) -> None:
    data = sources.dataset()
    (path,) = sources.cache.glob("*.truth")
    path.unlink()
    sources.content["images"][0]["width"] = 7
    sources.write()
    with pytest.raises(DataError, match="changed since it was opened; open the data set again"):
        data.labeled_examples("train")


def test_columns_are_read_only(sources: Sources) -> None:
    truth = sources.open().truths.truth(5)
    assert truth
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(truth.segmentation[0])[0] = 3
