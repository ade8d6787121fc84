"""Which images are labeled, as a file that can be committed: a few header lines, then one image id per line.

    # l2l split 1
    # dataset: refcoco
    # split_by: unc
    # digest: 5f1c...
    # procedure: keyed
    # seed: 0
    # fraction: 0.01
    # count: 169 of 16994
    98304
    ...

How the images are chosen: `datatools.choose_labeled`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from l2l_ray.data.layout import Words, shown
from l2l_ray.data.splits import count_of
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.files import replacing, saying_why

_TITLE = "# l2l split 1"
_HEADER = ("dataset", "split_by", "digest", "procedure", "seed", "fraction", "count")


def write_split(
    path: Path,
    labeled: Sequence[int],
    num_images: int,
    dataset: str,
    split_by: str,
    digest: str,
    seed: int,
    procedure: str,
) -> None:
    """Write a split file; it appears whole or not at all.

    Args:
        path: The file; its folder is made where it is missing.
        labeled: Ids of the labeled images.
        num_images: How many train images there are.
        dataset: Name of the data set.
        split_by: Who made its published split.
        digest: `ReferDataset.digest` of the data set.
        seed: Seed of the choice.
        procedure: How the images were chosen, one of `datatools.choose_labeled.PROCEDURES`.
    Raises:
        DataError: If the file cannot be written.
    """
    fraction = plain_fraction(len(labeled), num_images)
    values = (dataset, split_by, digest, procedure, seed, fraction, f"{len(labeled)} of {num_images}")
    lines = [_TITLE, *(f"# {name}: {value}" for name, value in zip(_HEADER, values, strict=True)), *map(str, labeled)]
    with saying_why(path), replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def read_split(path: Path, digest: str, image_ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return (labeled, unlabeled) image ids by a split file, both in the order given.

    Args:
        path: The file.
        digest: `ReferDataset.digest` of the data set that is used.
        image_ids: Its train images.
    Raises:
        DataError: If the file is malformed, was made for other data, or names images that are no train images.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"split file {path} cannot be read: {error}; make it by `l2l data split`") from error
    if lines[0].strip() != _TITLE:
        raise DataError(
            f"{path} is no split file: line 1 is {shown(lines[0])}, expected {_TITLE!r}; make it by `l2l data split`"
        )
    header = dict(line[2:].strip().split(": ", 1) for line in lines if line.startswith("# ") and ": " in line)
    if header.get("digest") != digest:
        raise DataError(
            f"{path} was made for {shown(Words(header.get('dataset', 'another data set')))} with digest "
            f"{shown(Words(header.get('digest', 'none')))}, but the data set here has {digest}; "
            "use the data it was made for, or make the file again by `l2l data split`"
        )
    labeled: set[int] = set()
    train = set(image_ids)
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        image_id = int(line) if line.strip().isascii() and line.strip().isdecimal() and len(line) < 20 else -1
        if image_id not in train or image_id in labeled:
            what = "comes twice" if image_id in labeled else "is no train image of this data set"
            raise DataError(
                f"{path} line {number}: {shown(Words(line))} {what}; make the file again by `l2l data split`"
            )
        labeled.add(image_id)
    if not labeled:
        raise DataError(f"{path} names no image; make it again by `l2l data split`")
    return [i for i in image_ids if i in labeled], [i for i in image_ids if i not in labeled]


def plain_fraction(count: int, num_images: int) -> float:
    """Return the shortest fraction that gives `count` of `num_images` when it is rounded down."""
    for digits in range(1, 17):
        for fraction in (float(f"{count / num_images:.{digits}g}"), float(f"{(count + 0.5) / num_images:.{digits}g}")):
            if 0 < fraction <= 1 and count_of(fraction, num_images) == count:
                return fraction
    return count / num_images


def require_fraction(labeled_frac: float, count: int, num_images: int) -> None:
    """Refuse a configured share that a split file contradicts: tables of results name the configured one.

    Raises:
        ConfigError: If `labeled_frac` gives another count.
    """
    if count_of(labeled_frac, num_images) != count:
        raise ConfigError(
            f"data.split_file labels {count} of {num_images} train images, but data.labeled_frac {labeled_frac} gives "
            f"{count_of(labeled_frac, num_images)}; leave data.labeled_frac out"
        )
