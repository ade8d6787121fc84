"""YAML as people write it by hand: plain values alone, and nothing that one line would quietly replace in another."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that stands twice in a mapping: of two sections of one name, YAML would keep the last alone."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    what = f"{key.value!r} stands in line {lines[key.value]} already; write what belongs to it once"
                    raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
                lines[key.value] = key.start_mark.line + 1
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def parse_yaml(text: str) -> Any:
    """Return what plain YAML says; by libyaml, which takes a tenth of the time, where PyYAML was built with it.

    Raises:
        YAMLError: It is no YAML, would make more than plain values, or has a key twice in one mapping.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
