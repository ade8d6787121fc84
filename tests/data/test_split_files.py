"""Split files: the way there and back, and files made for other data."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2l_ray.data.split_files import plain_fraction, read_split, require_fraction, write_split
from l2l_ray.errors import ConfigError, DataError


def test_there_and_back(tmp_path: Path) -> None:
    ids = [30, 10, 20]
    labeled = [30, 20]
    write_split(tmp_path / "split.txt", labeled, 3, "tiny", "own", "abc", 7, "keyed")
    lines = (tmp_path / "split.txt").read_text().splitlines()
    assert lines[:8] == [
        "# l2l split 1", "# dataset: tiny", "# split_by: own", "# digest: abc", "# procedure: keyed", "# seed: 7",
        "# fraction: 0.7", "# count: 2 of 3",
    ]  # fmt: skip
    assert read_split(tmp_path / "split.txt", "abc", ids) == (labeled, [i for i in ids if i not in labeled])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no split file: line 1 is"),
        ("# l2l split 1\n# digest: other\n1\n", "with digest other, but the data set here has abc"),
        ("# l2l split 1\n1\n", "with digest none"),
        ("# l2l split 1\n# digest: abc\n", "names no image"),
        ("# l2l split 1\n# digest: abc\n9\n", "line 3: 9 is no train image"),
        ("# l2l split 1\n# digest: abc\n1\n1\n", "line 4: 1 comes twice"),
        ("# l2l split 1\n# digest: abc\n1 2\n", "line 3: 1 2 is no train image"),
        ("# l2l split 1\n# digest: abc\n" + "1" * 5000, "is no train image"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "split.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        read_split(tmp_path / "split.txt", "abc", [1, 2, 3])


def test_no_file_and_no_text(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(pickle.dumps([1]))
    for name in ("a.txt", "b.txt"):
        with pytest.raises(DataError, match="cannot be read: .*make it by `l2l data split`"):
            read_split(tmp_path / name, "abc", [1])


@given(content=st.text(max_size=80))
def test_any_text_is_a_split_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "split.txt"
    path.write_bytes(f"# l2l split 1\n# digest: abc\n{content}".encode())
    try:
        labeled, unlabeled = read_split(path, "abc", [1, 2, 3])
    except DataError:
        return
    assert sorted(labeled + unlabeled) == [1, 2, 3]


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_plain_fractions_give_the_count(numbers: tuple[int, int]) -> None:
    count, num_images = numbers
    require_fraction(plain_fraction(count, num_images), count, num_images)


def test_a_share_that_contradicts_the_file(tmp_path: Path) -> None:
    assert plain_fraction(169, 16994) == 0.01
    require_fraction(0.01, 169, 16994)
    with pytest.raises(ConfigError, match=r"labels 169 of 16994 .* 0.05 gives 849; leave data.labeled_frac out"):
        require_fraction(0.05, 169, 16994)
