"""Whether a data set is published: most of its truth is then hidden truth, whatever the data set is called here.

An import writes it down beside `instances.json`, as the one word of `origin.txt`: `published` or `own`. It stays with
the data set when more is merged into it, or images are dropped from it; a person may write it there, too. A folder
without that file, as it was downloaded, goes by the names of REFER and of RefShapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from l2l_ray.data.layout import shown
from l2l_ray.errors import DataError

ORIGIN_FILE = "origin.txt"
Origin = Literal["published", "own"]
_BY_NAME = {
    *(("refcoco", "unc"), ("refcoco", "google"), ("refcoco+", "unc"), ("refcocoplus", "unc")),
    *(("refcocog", "umd"), ("refcocog", "google"), ("refclef", "unc"), ("refclef", "berkeley"), ("grefcoco", "unc")),
}
_REFSHAPES = "l2l"  # who split RefShapes, our own benchmark
_SPLITS = {"unc": ("train", "val", "testA", "testB"), "umd": ("train", "val", "test")}


def is_published(folder: Path, split_by: str) -> bool:
    """Tell whether a data set is published data or RefShapes.

    Args:
        folder: `<root>/<dataset>`.
        split_by: Who split it.
    Raises:
        DataError: What stands in its `origin.txt` cannot be read, or is no origin.
    """
    try:
        said = (folder / ORIGIN_FILE).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return (folder.name, split_by) in _BY_NAME or split_by == _REFSHAPES
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / ORIGIN_FILE} cannot be read: {error}; correct it, or remove it") from error
    if said not in get_args(Origin):
        raise DataError(
            f"{folder / ORIGIN_FILE} says {shown(said)}; expected one of {', '.join(get_args(Origin))}; correct it"
        )
    return said == "published"


def write_origin(folder: Path, origin: Origin) -> None:
    """Write down in a data set's folder where it comes from."""
    (folder / ORIGIN_FILE).unlink(missing_ok=True)  # it may be a link to another data set's
    (folder / ORIGIN_FILE).write_text(f"{origin}\n", encoding="utf-8")


def published_splits(dataset: str, split_by: str) -> tuple[str, ...]:
    """Return the splits that published data have; of those of which that is not known, train and val."""
    return ("train", "val") if dataset == "refclef" else _SPLITS.get(split_by, ("train", "val"))
