"""Fields of a config: named by their paths, and left out of it by them."""

from __future__ import annotations

from l2l_ray.config import NO_RESULT, PLACES, RunConfig, config_fields, dump_without


def test_what_changes_no_result_is_a_field_or_a_section() -> None:
    paths = {field.path for field in config_fields(RunConfig)}
    assert paths | {path.split(".")[0] for path in paths} >= NO_RESULT > PLACES


def test_a_config_without_some_fields_and_sections() -> None:
    config = RunConfig()
    whole, left = config.model_dump(mode="json"), dump_without(config, {"cluster", "loop.compile", "name"})
    assert whole.keys() - left.keys() == {"cluster", "name"}
    assert whole["loop"].keys() - left["loop"].keys() == {"compile"}
    assert left["prior"] == whole["prior"] and left["data"] == whole["data"]
