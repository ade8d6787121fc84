"""Texts and masks that a data set has and its source no longer has are named, with the way back."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from l2l_ray import cli
from l2l_ray.datatools.left_behind import given_by, left_behind
from tests.refer_folder import draw

Look = Callable[..., list[str]]
NAMES = ("a/x", "b/x", "c", "d")
REVIEW = {"source": "review", "action": "redraw", "number": 1, "as_of": 1, "updated_at": "2026-11-26T16:00:00+00:00"}


def _import(tmp_path: Path, root: str, kind: str, source: Path, *more: str) -> None:
    words = [kind, str(source), "--images", str(tmp_path / "photos"), "--root", str(tmp_path / root)]
    cli.main(["data", "import", *words, "--dataset", "own", *more])


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Make a data set of four photos that all have the text "cup" and a mask; give what tells what its source lacks."""
    for number, name in enumerate(NAMES):
        draw(tmp_path / "photos" / f"{name}.png", number)
        (tmp_path / "photos" / f"{name}.txt").write_text("cup")
        mask = np.zeros((24, 32), np.uint8)
        mask[2:20, 2 : 10 + number] = 255
        Image.fromarray(mask).save(tmp_path / "photos" / f"{name}_mask.png")
    _import(tmp_path, "root", "folder", tmp_path / "photos")

    def tell(kind: str = "folder", source: Path = tmp_path / "photos") -> list[str]:
        shutil.rmtree(tmp_path / "fresh", ignore_errors=True)
        _import(tmp_path, "fresh", kind, source)
        return list(left_behind(tmp_path / "root" / "own", tmp_path / "fresh" / "own", source, kind))

    return tell


def _update(tmp_path: Path, rows: Sequence[dict[str, Any]]) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _import(tmp_path, "root", "rows", tmp_path / "rows.jsonl", "--update")


def test_of_an_unchanged_source_nothing_is_said(look: Look) -> None:
    assert look() == []


def test_a_mask_that_is_gone_is_named_with_its_photo(look: Look, tmp_path: Path) -> None:
    photos, folder = tmp_path / "photos", tmp_path / "root" / "own"
    (photos / "c_mask.png").unlink()
    (line,) = look()
    assert line == (
        f"1 mask is no longer in {photos} and stays truth, of c.png ('cup'); to begin without, remove {folder} and "
        f"give the same command; `l2l data import review RUN --root {folder.parent} --dataset own --update` then "
        "brings back what was reviewed"
    )
    (photos / "d_mask.png").unlink()
    (line,) = look()
    assert line.startswith(f"2 masks are no longer in {photos} and stay truth, of c.png ('cup'), d.png ('cup'); to")


def test_of_two_photos_of_one_name_the_lacking_one_is_named(look: Look, tmp_path: Path) -> None:
    for ending in (".png", ".txt", "_mask.png"):
        (tmp_path / "photos" / "b" / f"x{ending}").unlink()
    (line,) = look()
    assert line.startswith(
        f"1 text is no longer in {tmp_path / 'photos'} and stays in the data set, such as 'cup' of b/x"
    )


def test_a_photo_that_lies_elsewhere_in_its_source_is_not_gone(look: Look, tmp_path: Path) -> None:
    (tmp_path / "photos" / "e").mkdir()
    for ending in (".png", ".txt", "_mask.png"):
        shutil.copy(tmp_path / "photos" / f"c{ending}", tmp_path / "photos" / "e" / f"z{ending}")
        if ending != ".png":
            (tmp_path / "photos" / f"c{ending}").unlink()
    assert look() == []


def test_a_mask_of_a_review_or_one_that_is_unusable_is_not_gone(look: Look, tmp_path: Path) -> None:
    _update(tmp_path, [{"image": "c.png", "expression": "cup", "polygon": [3, 3, 9, 3, 9, 9], "provenance": REVIEW}])
    (tmp_path / "photos" / "c_mask.png").unlink()
    (tmp_path / "photos" / "d_mask.png").write_bytes(b"no picture")
    assert look() == []


def test_of_a_table_a_mask_that_is_taken_out_is_named(look: Look, tmp_path: Path) -> None:
    rows = [{"image": f"{name}.png", "expression": "cup", "mask": f"{name}_mask.png"} for name in NAMES]
    del rows[3]["mask"]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line,) = look("rows", tmp_path / "own.jsonl")
    assert line.startswith(f"1 mask is no longer in {tmp_path / 'own.jsonl'} and stays truth, of d.png ('cup'); to")


def test_the_way_back_is_said_once_and_can_be_pasted_where_a_path_has_blanks(look: Look, tmp_path: Path) -> None:
    look()
    (tmp_path / "photos" / "c.txt").write_text("mug")
    (tmp_path / "photos" / "d_mask.png").unlink()
    (tmp_path / "root").rename(tmp_path / "my root")
    lines = list(left_behind(tmp_path / "my root" / "own", _fresh(tmp_path), tmp_path / "photos", "folder"))
    assert [line.partition("; ")[0] for line in lines] == [
        f"1 text is no longer in {tmp_path / 'photos'} and stays in the data set, such as 'cup' of c.png",
        f"1 mask is no longer in {tmp_path / 'photos'} and stays truth, of d.png ('cup')",
    ]
    _, removed, command, _ = re.split(r"; to begin without, remove (.*) and give the same command; `(.*)`", lines[1])
    assert shlex.split(removed) == [str(tmp_path / "my root" / "own")]
    assert shlex.split(command)[5:] == ["--root", str(tmp_path / "my root"), "--dataset", "own", "--update"]
    assert ";" not in lines[0]


def _fresh(tmp_path: Path) -> Path:
    shutil.rmtree(tmp_path / "fresh")
    _import(tmp_path, "fresh", "folder", tmp_path / "photos")
    return tmp_path / "fresh" / "own"


def test_what_another_source_gave_is_not_missed(look: Look, tmp_path: Path) -> None:
    look()
    given = given_by(tmp_path / "fresh" / "own")
    draw(tmp_path / "photos" / "e.png", 9)
    (tmp_path / "photos" / "d_mask.png").unlink()
    (tmp_path / "photos" / "d.txt").write_text("jug")
    rows = [{"image": "e.png", "expression": "pot"}, {"image": "c.png", "expression": "cup", "id": "7"}]
    _update(tmp_path, [{**row, "polygon": [3, 3, 9, 3, 9, 9]} for row in rows])
    fresh = _fresh(tmp_path)
    (line,) = left_behind(tmp_path / "root" / "own", fresh, tmp_path / "photos", "folder", given)
    assert line.startswith("1 text is no longer in ") and "such as 'cup' of d.png" in line
    assert line.endswith("and what came from other sources has to be merged again")
    assert list(left_behind(tmp_path / "root" / "own", fresh, tmp_path / "photos", "folder", [])) == []
