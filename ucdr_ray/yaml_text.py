"""YAML as plain data, in which no key of a section may stand twice."""

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, same = key.start_mark.line + 1, (key.tag, key.value)
            if same in lines:
                raise yaml.YAMLError(
                    f"key {key.value} on line {line} again, first on line {lines[same]}; allowed: once in a section"
                )
            lines[same] = line
        return node


def parse_yaml(text: str) -> Any:
    """The one document of ``text``; None where it is empty.

    Raises:
        yaml.YAMLError: not YAML, or a key stands twice, of which YAML itself would silently take the last.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:  # a 13th month, a nesting without end
        raise yaml.YAMLError(f"a value that YAML cannot read: {error}") from None
    finally:
        loader.dispose()
