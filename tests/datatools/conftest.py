"""A small data set of own photos that tests import more into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from l2l_ray import cli
from tests.own_data import LEFT, Import
from tests.refer_folder import draw


@pytest.fixture
def own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    """Make a data set of three photos, the first with a mask; give a function that imports more rows into it."""
    for name in ("a.png", "b.png", "c.png"):
        draw(tmp_path / "photos" / name, ord(name[0]))

    def bring(rows: list[dict[str, Any]], *more: str, images: Path = tmp_path / "photos") -> tuple[int, str]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = ["rows", str(path), "--images", str(images), "--root", str(tmp_path / "root"), "--dataset", "own"]
        status = cli.main(["data", "import", *words, *more])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    status, _ = bring(
        [
            {"image": "a.png", "expression": ["left cat", "the cat"], "polygon": LEFT, "id": "cat"},
            {"image": "b.png", "expression": "dog", "split": "val"},
            {"image": "c.png", "expression": "bird"},
        ]
    )
    assert status == 0
    return bring
