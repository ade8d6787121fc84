"""Whether a data set is published: by what stands beside it, by REFER's names where nothing does."""

from __future__ import annotations

from pathlib import Path

import pytest

from l2l_ray.data.origin import ORIGIN_FILE, is_published, published_splits, write_origin
from l2l_ray.errors import DataError


@pytest.mark.parametrize(
    ("name", "split_by", "expected"),
    [
        ("refcoco", "unc", True),
        ("refcocoplus", "unc", True),
        ("refcocog", "google", True),
        ("refshapes", "l2l", True),
        ("refcoco", "own", False),
        ("refcoco-clean", "unc", False),
    ],
)
def test_what_stands_there_counts_and_else_the_name(tmp_path: Path, name: str, split_by: str, expected: bool) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert is_published(folder, split_by) is expected
    write_origin(folder, "own")
    assert not is_published(folder, split_by)
    write_origin(folder, "published")
    assert is_published(folder, split_by)


@pytest.mark.parametrize("content", [b"mine", b"", b"\xff"])
def test_what_is_no_origin_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ORIGIN_FILE).write_bytes(content)
    with pytest.raises(DataError, match=r"origin\.txt (says '.*'; expected one of published, own|cannot be read: )"):
        is_published(tmp_path, "own")


def test_who_split_published_data_says_their_splits() -> None:
    assert published_splits("whatever", "unc") == ("train", "val", "testA", "testB")
    assert published_splits("refclef", "unc") == published_splits("refcocog", "google") == ("train", "val")
