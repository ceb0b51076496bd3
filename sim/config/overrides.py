"""`--set engine.block_size=32`: changes to a configuration from the command line.

The value is read as YAML by the same strict reader; whatever is wrong with it is reported under the
override's own name. Refuses to know which keys there are.
"""

from __future__ import annotations

from typing import Any

from sim.config.yaml_source import Document, KeyPath, Mark, dotted, parse_yaml
from sim.errors import ConfigError, Problem


def apply_override(document: Document, override: str) -> None:
    """Change one value of a document; faults are added to its problems."""
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    source = f"--set {key.strip()}"
    if not equals or not all(parts):
        message = "is not key=value, such as engine.block_size=32"
        document.problems.append(Problem(f"--set {override}", "", message))
        return
    try:
        value = parse_yaml(text, source, has_places=False)
    except ConfigError as error:
        document.problems += error.problems
        return
    document.problems += value.problems
    try:
        path = _put(document.data, parts, value.data)
    except ValueError as error:
        document.problems.append(Problem(source, "", str(error)))
        return
    _move_marks(document, path, value)


def _put(data: Any, parts: list[str], value: Any) -> KeyPath:
    """Set the value at a path, making mappings on the way; the path with list positions as numbers.

    Raises:
        ValueError: Something on the way can hold no keys.
    """
    path: tuple[str | int, ...] = ()
    for part, is_last in zip(parts, [False] * (len(parts) - 1) + [True], strict=True):
        place: str | int = part
        if isinstance(data, list):
            place = _position(part, len(data), path)
        elif not isinstance(data, dict):
            raise ValueError(f"{dotted(path) or 'the file'} is a single value: there is no {part} in it")
        path = (*path, place)
        if is_last:
            data[place] = value
        elif isinstance(data, dict) and data.get(part) is None:
            data[part] = {}
        data = data[place]
    return path


def _position(part: str, length: int, path: KeyPath) -> int:
    if not (part.isascii() and part.isdigit() and int(part) < length):
        raise ValueError(f"{dotted(path)} is a list of {length}: '{part}' is no position in it, from 0")
    return int(part)


def _move_marks(document: Document, path: KeyPath, value: Document) -> None:
    """What was said at a path is now said by the override, and so is what it had to make on the way."""
    for marks, moved in ((document.keys, value.keys), (document.values, value.values)):
        for inner in [known for known in marks if known[: len(path)] == path]:
            del marks[inner]
        marks |= {(*path, *inner): mark for inner, mark in moved.items()}
        for length in range(1, len(path)):
            marks.setdefault(path[:length], Mark(value.source))
