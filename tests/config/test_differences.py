"""Which fields two configs differ in."""

from l2l_ray.config import smoke_config
from l2l_ray.config.differences import ABSENT, Difference, differences


def test_only_the_fields_that_differ_are_named_by_their_path() -> None:
    first = smoke_config().model_dump()
    second = smoke_config().model_dump()
    assert list(differences(first, second)) == []
    second["loop"]["seed"] = 7
    second["selector"]["reward"]["unlabeled"] = 0.25
    second["compare"] = ("supervised",)
    assert sorted(differences(first, second)) == [
        Difference("compare", (), ("supervised",)),
        Difference("loop.seed", first["loop"]["seed"], 7),
        Difference("selector.reward.unlabeled", first["selector"]["reward"]["unlabeled"], 0.25),
    ]


def test_a_field_that_one_has_alone_differs() -> None:
    assert list(differences({"a": {"GPU": 1}}, {"a": {}, "b": 2})) == [("a.GPU", 1, ABSENT), ("b", ABSENT, 2)]
