"""The command that began a run, read off its env.json."""

from __future__ import annotations

from typing import Any

import pytest

from l2l_ray.report.began import in_its_folder, label_command, words_of


@pytest.mark.parametrize(
    ("command", "run_root", "again"),
    [
        ("/venv/bin/l2l label 'my photos'", None, "l2l label 'my photos'"),
        ("/code/l2l_ray/cli.py label photos", "/runs", "l2l label photos --run_root /runs"),
        ("l2l label photos --run_root runs", "/here/runs", "l2l label photos --run_root runs"),
        ("l2l label photos --run_root=runs", "/here/runs", "l2l label photos --run_root=runs"),
        ("l2l run --name label", "/runs", ""),
        ("pytest label", "/runs", ""),
        (None, None, ""),
        (7, None, ""),
    ],
)
def test_a_label_command_is_given_once_more_with_its_run_root(command: Any, run_root: Any, again: str) -> None:
    assert label_command({"command": command}, run_root) == again


def test_its_folder_comes_first_where_it_is_known() -> None:
    env = {"command": "l2l label photos", "directory": "/my data"}
    assert in_its_folder(env) == "cd '/my data' && "
    assert label_command(env, None) == "cd '/my data' && l2l label photos"
    assert in_its_folder({}) == ""


def test_a_command_that_was_not_quoted_is_split_at_its_spaces() -> None:
    assert words_of({"command": "l2l label Anna's"}) == ["l2l", "label", "Anna's"]
