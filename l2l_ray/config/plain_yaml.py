"""YAML as people write it by hand: plain values alone, and nothing that one line would quietly replace in another."""

from __future__ import annotations

from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"  # `<<`: its keys may be given anew


def parse_yaml(text: str) -> Any:
    """Return what plain YAML says; by libyaml, which takes a tenth of the time, where PyYAML was built with it.

    Raises:
        YAMLError: It is no YAML, would make more than plain values, or has a key twice in one mapping, of which YAML
            would keep the last alone.
    """
    loader = (yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        _require_keys_once(root)  # before anything is made: merges change the nodes
        return None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()


def _require_keys_once(root: yaml.Node | None) -> None:
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:  # an alias is the node itself
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                waiting += [key, value]
                if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                    if key.value in lines:
                        what = f"{key.value!r} stands in line {lines[key.value]} already; write what belongs to it once"
                        raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
                    lines[key.value] = key.start_mark.line + 1
