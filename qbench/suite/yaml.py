"""Read YAML files and remember the line of every value, for error messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qbench.errors import QbenchError, nearest

# Keys and indices that lead to a value.
Location = tuple[str | int, ...]
_MAX_BYTES = 1_000_000
# What every version of YAML reads alike, by the type that PyYAML, of version 1.1, gives it.
_UNAMBIGUOUS = {
    "int": re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    "float": re.compile(
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        re.IGNORECASE,
    ),
    "bool": re.compile(r"true|false", re.IGNORECASE),
    "timestamp": re.compile(r"(?!)"),
    "str": re.compile(r"(?!\s*[-+]?0(o[0-7]+|[0-9]+(\.[0-9]*)?)\s*$).*", re.DOTALL),
}
_MAX_DEPTH = 20
_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)


@dataclass
class Document:
    """Content of a YAML file, with the place where each value was written.

    Attributes:
        data: The content, a mapping.
        path: Path of the file.
        places: Where the value at a location was written: ``'digits.yaml:3'`` or
            ``'--set epochs=3'``.
    """

    data: dict[str, Any]
    path: Path
    places: dict[Location, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a YAML file as data. Nothing in it is executed.

        Args:
            path: Path of the file, which has 1 MB at most and is nested 20 deep at most.

        Raises:
            QbenchError: The file cannot be read, is not YAML, is not a mapping, has a key twice,
                uses anchors, aliases or tags, or has a value that versions of YAML read
                differently, such as ``010``.
        """
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe, a device
                raise QbenchError(f"{path}: no regular file")
            if path.stat().st_size > _MAX_BYTES:
                raise QbenchError(f"{path}: larger than {_MAX_BYTES:,} bytes; is this a suite?")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise QbenchError(f"{path}: {error.strerror}{_similar_files(path)}") from error
        except UnicodeDecodeError as error:
            raise QbenchError(f"{path}: not UTF-8 text ({error.reason})") from error
        try:
            depth = 0
            for token in yaml.scan(text, Loader=yaml.SafeLoader):
                depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
                if depth > _MAX_DEPTH:
                    line = token.start_mark.line + 1
                    raise QbenchError(f"{path}:{line}: nested more than {_MAX_DEPTH} deep")
                if isinstance(token, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken):
                    line = token.start_mark.line + 1
                    raise QbenchError(f"{path}:{line}: anchors, aliases and tags are not allowed")
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            data = None if node is None else loader.construct_document(node)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark else ""
            raise QbenchError(f"{path}{line}: not YAML: {error.problem}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise QbenchError(f"{path}: not YAML: {error}") from error
        if not isinstance(data, dict) or not isinstance(node, yaml.MappingNode):
            raise QbenchError(f"{path}: expected `key: value` lines, found {_kind(data)}")
        document = cls(data, path)
        problems = [f"{path}:{line}: {problem}" for line, problem in _ambiguities(node)]
        problems += document._index(node, ())
        if problems:
            raise QbenchError("\n".join(problems))
        return document

    def set(self, assignment: str) -> None:
        """Replace a value, as the option ``--set`` does.

        Args:
            assignment: ``key=value`` or ``outer.inner=value``, where the value is YAML. In a list
                of names, such as ``methods``, a name selects the options of all its entries.

        Raises:
            QbenchError: There is no ``=``, the value is not YAML or is ambiguous, or the key leads
                nowhere.
        """
        key, value = parse_assignment(assignment)
        *outer, last = key.split(".")
        targets: list[tuple[Any, Location]] = [(self.data, ())]
        for part in outer:
            targets = [
                found
                for target, location in targets
                for found in _descend(target, location, part, assignment)
            ]
        for target, location in targets:
            if not isinstance(target, dict):
                raise QbenchError(f"--set {assignment}: '{'.'.join(outer)}' has no keys")
            target[last] = value
            self.places = {
                place: where
                for place, where in self.places.items()
                if place[: len(location) + 1] != (*location, last)
            }
            self.places[*location, last] = f"--set {assignment}"

    def where(self, location: Sequence[str | int]) -> str:
        """Return where a value was written, or the nearest value around it.

        Args:
            location: Keys and indices that lead to the value.

        Returns:
            ``'FILE:LINE'``, ``'--set …'``, or the file alone if no value around it is known.
        """
        for length in range(len(location), 0, -1):
            place = self.places.get(tuple(location[:length]))
            if place is not None:
                return place
        return str(self.path)

    def _index(self, node: yaml.Node, location: Location) -> Iterable[str]:
        """Record the line of every value, and yield a message for every key written twice."""
        if location:
            self.places[location] = f"{self.path}:{node.start_mark.line + 1}"
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                line = f"{self.path}:{key.start_mark.line + 1}"
                name = str(key.value)
                if name in seen:
                    yield f"{line}: '{name}' is written twice"
                seen.add(name)
                yield from self._index(value, (*location, name))
                self.places[*location, name] = line
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                yield from self._index(value, (*location, index))


def parse_assignment(text: str) -> tuple[str, Any]:
    """Parse ``key=value``, where the value is YAML.

    Args:
        text: The assignment.

    Returns:
        The key and the value.

    Raises:
        QbenchError: There is no ``=``, or the value is not YAML or is ambiguous.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise QbenchError(f"--set {text}: write it as key=value")
    try:
        ambiguities = [problem for _, problem in _ambiguities(yaml.compose(value, yaml.SafeLoader))]
        content = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise QbenchError(f"--set {text}: the value is not YAML") from error
    if ambiguities:
        raise QbenchError(f"--set {text}: {ambiguities[0]}")
    return key.strip(), content


def _ambiguities(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """Yield the line and a message for each value that versions of YAML read differently."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _ambiguities(key)
            yield from _ambiguities(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _ambiguities(item)
    elif isinstance(node, yaml.ScalarNode) and node.style is None:  # not in quotes
        kind = node.tag.rpartition(":")[2]
        if kind in _UNAMBIGUOUS and not _UNAMBIGUOUS[kind].fullmatch(node.value):
            yield node.start_mark.line + 1, _ambiguity(node.value, kind)


def _ambiguity(text: str, kind: str) -> str:
    """Say how YAML 1.1 reads a value, and how to write what was meant."""
    quoted = f"'{text}' in quotes for text"
    plain = text.replace("_", "")
    if kind == "timestamp":
        return f"{text} is a date in YAML; write {quoted}"
    if ":" in text:
        read = yaml.safe_load(text)
        return (
            f"{text} is {read} in YAML, a number to base 60; write {read}, a time with its unit as "
            f"in '90 s', or {quoted}"
        )
    if kind == "bool":
        read = str(yaml.safe_load(text)).lower()
        return f"{text} is {read} in YAML; write {read}, or {quoted}"
    sign, digits = (plain[0], plain[1:]) if plain[0] in "+-" else ("", plain)
    prefix = re.match(r"0[xob](?=[0-9a-f])", digits, re.IGNORECASE)
    meant = str(int(digits, 0)) if prefix else re.sub(r"^0+(?=[0-9])", "", digits)
    return f"{text} is read differently by versions of YAML; write {sign}{meant}, or {quoted}"


def _descend(
    target: Any, location: Location, part: str, assignment: str
) -> list[tuple[Any, Location]]:
    """Return what one part of a key leads to: in a list of names, all entries of that name."""
    if isinstance(target, dict):
        inner = target.setdefault(part, {})
        # `recipe: aligned` is short for `recipe: {name: aligned}`.
        if isinstance(inner, str) and part == "recipe":
            inner = target[part] = {"name": inner}
        return [(inner, (*location, part))]
    if isinstance(target, list):
        found: list[tuple[Any, Location]] = []
        for index, item in enumerate(target):
            if item == part:
                item = target[index] = {part: {}}
            if isinstance(item, dict) and part in item:
                item[part] = item[part] or {}
                found.append((item[part], (*location, index, part)))
        if found:
            return found
        names = [next(iter(item)) if isinstance(item, dict) else str(item) for item in target]
        where = location[-1] if location else "the suite"
        more = "; `--methods FILE.py` adds the methods of a file" if where == "methods" else ""
        raise QbenchError(
            f"--set {assignment}: '{part}' is not in '{where}'{nearest(part, names)}{more}"
        )
    raise QbenchError(f"--set {assignment}: '{'.'.join(map(str, location))}' has no keys")


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "text", type(None): "nothing"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _similar_files(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.iterdir() if p.suffix in {".yaml", ".yml"}]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.4)
    if close:
        return f"; did you mean {path.parent / close[0]}?"
    return f"; there are {', '.join(sorted(names))}" if names else ""
