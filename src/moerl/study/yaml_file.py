"""Reading YAML that may be anybody's: data alone, nothing said twice, nothing that grows without bounds."""

from __future__ import annotations

from typing import Any

import yaml

from moerl.study.errors import one_line

MOST_BYTES = 1_000_000
"""Many times the largest file of `config/`."""
MOST_VALUES = 100_000
"""Aliases counted as what they stand for: a few lines of aliases of aliases are billions of values."""
DEEPEST = 50
MOST_BITS = 128
"""Of an integer: longer ones cannot even be printed."""


def parse_yaml(data: bytes) -> Any:
    """The value of a YAML document: mappings, sequences and plain values.

    Raises ValueError, in one line, for what is no YAML in UTF-8, for an object of some program, a key that
    stands twice in a mapping, nesting deeper than `DEEPEST`, an integer longer than `MOST_BITS`, and more
    than `MOST_BYTES` or `MOST_VALUES`.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"{len(data)} bytes, more than {MOST_BYTES}")
    try:
        loader = _Loader(data.decode("utf-8"))
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, AttributeError, TypeError, LookupError, ArithmeticError) as error:
        # Besides its own errors, the loader stumbles over tags whose text is not what they say.
        raise ValueError(one_line(error)) from error


class _Loader(yaml.SafeLoader):
    """The safe loader, with bounds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values, self._depth = 0, 0
        self._sizes: dict[int, int] = {}
        """Node → values in it, those of its aliases included."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """See PyYAML: one node with all that is in it, or the node that an alias stands for."""
        before = self._values
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > DEEPEST:
            raise _refused(f"nested deeper than {DEEPEST}", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _refused("an alias stands for itself", event)
            self._values += self._sizes[id(node)]
        else:
            self._values += 1
            self._sizes[id(node)] = self._values - before
        if self._values > MOST_VALUES:
            raise _refused(f"more than {MOST_VALUES} values", event)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """See PyYAML."""
        value = super().construct_yaml_int(node)
        if value.bit_length() > MOST_BITS:
            raise _refused("an integer is too large", node)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See PyYAML; a key may stand there once."""
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"the key {key.value!r} stands twice in a mapping"
                    raise _refused(problem, key)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _refused(problem: str, at: yaml.Event | yaml.Node) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {at.start_mark.line + 1}: {problem}" if at.start_mark else problem)
