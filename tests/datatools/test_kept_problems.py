"""What was named as wrong is kept until its source is imported without it, and that of other sources stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from l2l_ray import cli
from l2l_ray.data.layout import PROBLEMS_FILE
from l2l_ray.datatools.kept_problems import SOURCES_FILE
from tests.own_data import Import
from tests.refer_folder import draw


def test_a_file_of_a_folder_that_was_mended_is_told_no_more(tmp_path: Path) -> None:
    kept, words = tmp_path / "root" / "own" / PROBLEMS_FILE, ["data", "import", "folder", str(tmp_path / "photos")]
    words += ["--root", str(tmp_path / "root"), "--dataset", "own"]
    for name in ("a", "b"):
        draw(tmp_path / "photos" / f"{name}.png", ord(name))
        (tmp_path / "photos" / f"{name}.txt").write_text("cup")
    assert cli.main(words) == 0 and not kept.exists()
    (tmp_path / "photos" / "b.txt").write_text("cup", encoding="utf-16")
    assert cli.main([*words, "--update"]) == 1
    assert kept.read_text().startswith("photos/b.txt: text: got UnicodeDecodeError")
    for wording in ("earlier", "oldest"):
        kept.write_text(kept.read_text().replace("save it as UTF-8", f"{wording} words"))
        assert cli.main([*words, "--update"]) == 1
        (line,) = kept.read_text().splitlines()
        assert line.endswith("; save it as UTF-8"), "told once, in the words of now"
    (tmp_path / "photos" / "b.txt").write_text("cup")
    assert cli.main([*words, "--update"]) == 0 and not kept.exists()


def test_what_was_named_about_other_sources_stays(own: Import, tmp_path: Path) -> None:
    kept = tmp_path / "root" / "own" / PROBLEMS_FILE
    bad, good = {"image": "gone.png", "expression": "x"}, {"image": "c.png", "expression": "bird"}
    tables = [tmp_path / name for name in ("one/own.jsonl", "two/own.jsonl", "more.jsonl")]
    for table in tables:
        table.parent.mkdir(exist_ok=True)
    for rows, sources, lines in (
        ([bad, good], tables[:1], ["own.jsonl line 1"]),
        ([good, good], tables[1:2], ["own.jsonl line 1"]),
        ([good, bad], tables[1:], ["own.jsonl line 1", "own.jsonl line 2", "more.jsonl line 2"]),
        ([good], tables[:1], ["own.jsonl line 2", "more.jsonl line 2"]),
        ([good], tables[2:], ["own.jsonl line 2"]),
    ):
        for table in sources:
            table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = ["rows", *map(str, sources), "--images", str(tmp_path / "photos"), "--root", str(tmp_path / "root")]
        cli.main(["data", "import", *words, "--dataset", "own", "--update"])
        assert [line.partition(":")[0] for line in kept.read_text().splitlines()] == lines


@pytest.mark.parametrize("content", ["{", "[]", '{"x": 3}'])
def test_what_a_person_makes_of_the_sources_of_problems_stops_nothing(
    own: Import, tmp_path: Path, content: str
) -> None:
    bad, good = {"image": "gone.png", "expression": "x"}, {"image": "c.png", "expression": "bird"}
    folder = tmp_path / "root" / "own"
    own([good, bad], "--update")
    (folder / SOURCES_FILE).write_text(content)
    with (folder / PROBLEMS_FILE).open("a") as file:
        file.write("rows.jsonl.old line 3: missing image\n")
    assert own([good], "--update")[0] == 0
    assert (folder / PROBLEMS_FILE).read_text() == "rows.jsonl.old line 3: missing image\n"
