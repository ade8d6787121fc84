"""YAML by hand: keys given twice are refused where they stand, and merges are no keys given twice."""

from __future__ import annotations

import pytest
import yaml

from l2l_ray.config import parse_yaml

MERGES = """
base: &base {x: 1}
deep: {deeper: {a: &a {<<: *base, x: 2}}}
both: {<<: *a, y: 3}
"""


def test_a_merged_key_may_be_given_anew_at_any_depth() -> None:
    found = parse_yaml(MERGES)
    assert found["deep"] == {"deeper": {"a": {"x": 2}}} and found["both"] == {"x": 2, "y": 3}
    assert found == yaml.safe_load(MERGES)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a' stands in line 1 already; write what belongs to it once"),
        ("a:\n- b: {c: 1,\n      c: 1}\n", 3, "'c' stands in line 2 already"),
        ("{a: 1, a: 2}", 1, "'a' stands in line 1 already"),
        ("x: &x {a: 1}\ny: {<<: *x, b: 1, b: 2}\n", 2, "'b' stands in line 2 already"),
    ],
)
def test_a_key_given_twice_is_refused_where_it_stands(text: str, line: int, problem: str) -> None:
    with pytest.raises(yaml.constructor.ConstructorError, match=problem) as error:
        parse_yaml(text)
    assert error.value.problem_mark is not None and error.value.problem_mark.line == line - 1


def test_what_is_no_plain_value_is_refused_and_nothing_is_nothing() -> None:
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        parse_yaml("!!python/object/apply:os.getcwd []")
    assert parse_yaml("") is None and parse_yaml("[1, {a: b}]") == [1, {"a": "b"}]
