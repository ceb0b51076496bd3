"""A strict reader of one YAML file: plain data, and where each key and value of it stands.

Owns the form of the text. Refuses to know which keys mean anything. It collects what is wrong instead of
stopping at the first fault, as far as the text can be read at all. Stricter than YAML 1.1, so that a
file says what it seems to say:

    1e3                        a number (YAML 1.1: text)
    yes, no, on, off, True     text (YAML 1.1: booleans); only true and false are booleans
    2026-01-01, 12:30:00       text (YAML 1.1: a date, and 45000)
    007                        an error (YAML 1.1: octal)
    a: 1, a: 2                 an error (PyYAML: the last wins)
    !!python/..., !anything    an error, as are merge keys, several documents, and text other than UTF-8

Depth, size, aliases and what they expand to are limited, so no small file can fill the memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sim.errors import ConfigError, Problem

MAX_BYTES = 4 << 20
MAX_DEPTH = 32
MAX_VALUES = 100_000
MAX_ALIASES = 200

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the top of a file down to a value."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a source; line and column count from 1, and are None where there is no file."""

    source: str
    line: int | None = None
    column: int | None = None


@dataclass(slots=True)
class Document:
    """What a file says, where it says so, and what is wrong with how it says it."""

    source: str
    data: Any = None
    keys: dict[KeyPath, Mark] = field(default_factory=dict)
    """Where the key of each mapping entry stands (for list items: the item)."""
    values: dict[KeyPath, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def key_mark(self, path: KeyPath) -> Mark:
        """Where a key stands, or else the nearest thing around it that has a place."""
        return self._nearest(self.keys, path)

    def value_mark(self, path: KeyPath) -> Mark:
        """Where a value stands, or else the nearest thing around it that has a place."""
        return self.values[path] if path in self.values else self._nearest(self.keys, path)

    def _nearest(self, marks: Mapping[KeyPath, Mark], path: KeyPath) -> Mark:
        for length in range(len(path), 0, -1):
            if path[:length] in marks:
                return marks[path[:length]]
        return Mark(self.source, 1, 1)


def read_yaml(path: Path) -> Document:
    """Read a file.

    Raises:
        ConfigError: It cannot be read, is too large, is not UTF-8, or is not YAML at all.
    """
    source = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([Problem(source, "", f"cannot be read: {error.strerror or error}")]) from error
    if len(content) > MAX_BYTES:
        message = f"is larger than {MAX_BYTES >> 20} MiB: a configuration is not"
        raise ConfigError([Problem(source, "", message)])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        message = f"is not UTF-8: byte 0x{content[error.start]:02x}; save the file as UTF-8"
        raise ConfigError([Problem(source, "", message, line, column)]) from error
    return parse_yaml(text, source)


def parse_yaml(text: str, source: str, *, has_places: bool = True) -> Document:
    """Read a text; without `has_places` its marks carry no line and column (an override, say).

    Raises:
        ConfigError: It is not YAML at all, or beyond the limits.
    """
    try:
        node = _composed(text)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        message = f"a character that YAML does not allow: U+{ord(text[error.position]):04X}"
        raise ConfigError([_at(Mark(source, line, column), message, has_places=has_places)]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(source, mark.line + 1, mark.column + 1) if mark else Mark(source)
        message = _in_our_words(error)
        raise ConfigError([_at(place, message, has_places=has_places)]) from error
    walk = _Walk(Document(source), has_places=has_places)
    if node is not None:
        walk.document.data = walk.read(node, (), 0)
    return walk.document


def _composed(text: str) -> Node | None:
    """The one node of a text."""
    loader = _LimitedLoader(text)
    try:
        node: Node | None = loader.get_single_node()
        return node
    except (ValueError, OverflowError) as error:  # PyYAML takes any \\U escape, and any version, for sensible
        mark = loader.get_mark()
        raise _RefusedError("not YAML: a character code or a version that does not exist", mark) from error
    finally:
        loader.dispose()


def _at(mark: Mark, message: str, *, has_places: bool) -> Problem:
    return Problem(mark.source, "", message, *((mark.line, mark.column) if has_places else (None, None)))


def _in_our_words(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "unreadable"
    if isinstance(error, _RefusedError):
        return problem
    if "but found another document" in problem:
        return "a second document: one file holds one"
    if "cannot start any token" in problem and "'\\t'" in problem:
        return "a tab cannot indent YAML: use spaces"
    context = f" ({error.context})" if error.context else ""
    return f"not YAML: {problem}{context}"


class _RefusedError(yaml.MarkedYAMLError):
    """YAML, but none that a configuration may hold."""

    def __init__(self, problem: str, mark: yaml.error.Mark) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _LimitedLoader(yaml.SafeLoader):
    """Composes nodes, never objects, and stops at the limits."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._num_nodes = 0
        self._num_aliases = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """The next node; PyYAML calls it for every one."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
        self._num_nodes += 1
        self._num_aliases += isinstance(event, yaml.AliasEvent)
        self._depth += 1
        try:
            if self._depth > MAX_DEPTH:
                raise _RefusedError(_too_deep(), event.start_mark)
            if self._num_nodes > MAX_VALUES or self._num_aliases > MAX_ALIASES:
                raise _RefusedError(
                    f"more than {MAX_VALUES:,} values or {MAX_ALIASES} aliases", event.start_mark
                )
            if getattr(event, "tag", None) is not None:
                tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
                raise _RefusedError(
                    f"tag '{tag}' is not allowed: a configuration is plain data", event.start_mark
                )
            node: Node | None = super().compose_node(parent, index)
            return node
        finally:
            self._depth -= 1


def _too_deep() -> str:
    return f"nested deeper than {MAX_DEPTH} levels"


class _Walk:
    """Turns a node tree into data, noting places and faults on the way."""

    def __init__(self, document: Document, *, has_places: bool) -> None:
        self.document = document
        self._has_places = has_places
        self._num_values = 0

    def read(self, node: Node, path: KeyPath, depth: int) -> Any:
        """The data of a node."""
        self.document.values[path] = self._mark(node)
        self.document.keys.setdefault(path, self._mark(node))
        self._num_values += 1
        if depth > MAX_DEPTH or self._num_values > MAX_VALUES:
            limit = _too_deep() if depth > MAX_DEPTH else f"aliases expand to over {MAX_VALUES:,} values"
            raise ConfigError([self._problem(node, path[:1], limit)])
        match node:
            case MappingNode():
                return self._read_mapping(node, path, depth)
            case SequenceNode():
                return [self.read(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
            case ScalarNode():
                return self._read_scalar(node, path)
            case _:
                raise TypeError(f"not a YAML node: {node!r}")

    def _read_mapping(self, node: MappingNode, path: KeyPath, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._complain(key_node, path, "a key must be text, not a list or a mapping")
                continue
            key = key_node.value
            inner = (*path, key)
            if key == "<<" and key_node.style is None:
                self._complain(key_node, inner, "merge keys are not read: repeat the keys")
            elif key in data:
                first = self.document.keys[inner].line
                where = f"; first on line {first}" if self._has_places else ""
                self._complain(key_node, inner, f"duplicate key{where}")
            else:
                self.document.keys[inner] = self._mark(key_node)
                data[key] = self.read(value_node, inner, depth + 1)
        return data

    def _read_scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        if _SURROGATE.search(node.value):
            self._complain(node, path, "half a character (a surrogate): write the whole one")
            return None
        if node.style is not None:
            return node.value
        try:
            return resolve_plain(node.value)
        except ValueError as error:
            self._complain(node, path, str(error))
            return None

    def _mark(self, node: Node) -> Mark:
        if not self._has_places:
            return Mark(self.document.source)
        return Mark(self.document.source, node.start_mark.line + 1, node.start_mark.column + 1)

    def _problem(self, node: Node, path: KeyPath, message: str) -> Problem:
        mark = self._mark(node)
        return Problem(mark.source, dotted(path), message, mark.line, mark.column)

    def _complain(self, node: Node, path: KeyPath, message: str) -> None:
        self.document.problems.append(self._problem(node, path, message))


_SURROGATE = re.compile(r"[\ud800-\udfff]")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    "true": True,
    "false": False,
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    "-.inf": float("-inf"),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def resolve_plain(text: str) -> bool | int | float | str | None:
    """What an unquoted scalar means.

    Raises:
        ValueError: It could be read in two ways, or is a number nobody means.
    """
    if text in _CONSTANTS:
        value: bool | float | None = _CONSTANTS[text]
        return value
    if _INTEGER.fullmatch(text):
        if len(text) > 19:
            raise ValueError(f"the number {text[:12]}... ({len(text)} digits) is too large")
        return int(text)
    if _LEADING_ZERO.fullmatch(text):
        raise ValueError(
            f"{text} has a leading zero, octal to some: write {text.lstrip('0') or '0'}, or quote"
        )
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def dotted(path: KeyPath) -> str:
    """A path as people write it: `engine.batching.kind`."""
    return ".".join(map(str, path))
