"""Turns what pydantic found wrong into problems with a place, a key and a remedy.

Owns the words. A fault is put where a reader would look: an unknown key at the key, a wrong value at the
value, a missing key at the mapping that lacks it. The names of chosen variants, which pydantic mixes
into its locations, are taken out.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sim.config.own import OwnClassError
from sim.config.yaml_source import Document, KeyPath, Mark, dotted
from sim.errors import ConfigError, Problem


def problem_at(mark: Mark, path: KeyPath, message: str) -> Problem:
    """A problem of a key at a place; an override is its own place, so its key is not repeated."""
    key = "" if mark.line is None and mark.source.endswith(f" {dotted(path)}") else dotted(path)
    return Problem(mark.source, key, message, mark.line, mark.column)


def in_file_order(problems: Iterable[Problem]) -> list[Problem]:
    """File by file, by place; those without a line (overrides, and whole files) last, as they came."""
    return sorted(problems, key=_order)


def _order(problem: Problem) -> tuple[bool, str, int, int]:
    if problem.line is None:
        return True, "", 0, 0
    return False, problem.source, problem.line, problem.column or 0


def problems_of(error: ValidationError, section: type[BaseModel], document: Document) -> list[Problem]:
    """Everything pydantic found, in its order."""
    problems: list[Problem] = []
    for detail in error.errors(include_url=False):
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            problems += cause.problems
        else:
            problems.append(_problem_of(detail, section, document))
    return problems


def did_you_mean(wrong: object, known: Iterable[str]) -> str:
    """A hint at the known word that begins so, or else at the nearest one, or nothing."""
    near = nearest(wrong, known)
    return f" (did you mean '{near}'?)" if near is not None else ""


def nearest(wrong: object, known: Iterable[str]) -> str | None:
    """The known word that was probably meant: what begins so goes before what looks alike."""
    text, words = str(wrong).lower(), list(known)
    begun = [word for word in words if word.lower().startswith(text)] if len(text) > 1 else []
    near = difflib.get_close_matches(text, begun or words, n=1, cutoff=0 if begun else 0.6)
    return near[0] if near else None


@dataclass(frozen=True, slots=True)
class _Found:
    """What a pydantic location points at."""

    path: KeyPath
    keys: Sequence[str]
    """Keys of the mapping around it."""
    annotation: Any
    """What stands there according to the section; None if unknown."""


def _problem_of(detail: ErrorDetails, section: type[BaseModel], document: Document) -> Problem:
    found = _follow(section, detail["loc"])
    path, value, context = found.path, detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            meant = _elsewhere(section, path)
            hint = f" (did you mean '{meant}'?)" if meant is not None else did_you_mean(path[-1], found.keys)
            hint = hint or f"; known here: {', '.join(found.keys)}"
            return problem_at(document.key_mark(path), path, f"unknown key{hint}")
        case "missing":
            return problem_at(document.key_mark(path), path, "this key is required and missing")
        case "union_tag_not_found":
            path = (*path, "kind")
            message = f"this key is required and missing: one of {', '.join(_kinds(found.annotation))}"
            return problem_at(document.key_mark(path), path, message)
        case "union_tag_invalid":
            path = (*path, "kind")
            message = _not_one_of(context["tag"], list(_kinds(found.annotation)))
        case "literal_error":
            message = _not_one_of(value, [str(word) for word in _literals(found.annotation)])
        case "value_error" if isinstance(context["error"], OwnClassError):
            return _own_problem(context["error"], path, document)
        case "value_error":
            message = str(context["error"])
        case _:
            message = _wrong_value(detail["type"], value, context, detail["msg"])
    return problem_at(document.value_mark(path), path, message)


def _own_problem(error: OwnClassError, path: KeyPath, document: Document) -> Problem:
    """Of a class of one's own, at the key below it that is wrong."""
    whole = (*path, *error.place)
    mark = document.key_mark(whole) if error.is_key else document.value_mark(whole)
    return problem_at(mark, whole, str(error))


def _elsewhere(section: type[BaseModel], path: KeyPath) -> str | None:
    """Where else in the tree there is a key of this name: the place that has most of the way in common."""
    here = tuple(str(part) for part in path if not isinstance(part, int))
    around = here[:-1]

    def num_shared(place: tuple[str, ...]) -> int:
        return next((i for i, (a, b) in enumerate(zip(place, around, strict=False)) if a != b), len(place))

    places = [place for place in _places(section, ()) if place[-1] == here[-1] and place != here]
    places.sort(key=lambda place: (-num_shared(place), len(place)))
    return ".".join(places[0]) if places else None


def _places(section: type[BaseModel], path: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    """Every key of a section and of those within it."""
    for name, field in section.model_fields.items():
        yield (*path, name)
        for variant in _variants(field.annotation):
            inner: Any = next(iter(get_args(variant)), None) if get_origin(variant) is list else variant
            if _is_section(inner):
                yield from _places(inner, (*path, name))


def _not_one_of(value: object, known: Sequence[str]) -> str:
    return f"{_shown(value)} is not one of {', '.join(known)}{did_you_mean(value, known)}"


_WANTED = {
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "list_type": "a list",
    "tuple_type": "a list",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "finite_number": "a finite number",
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-' only",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def _wrong_value(kind: str, value: object, context: dict[str, Any], fallback: str) -> str:
    if kind in _WANTED:
        return f"must be {_WANTED[kind]}, not {_shown(value)}"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        limit = context[bound]
        return f"must be {words} {f'{limit:,}' if isinstance(limit, int) else limit}, not {_shown(value)}"
    return fallback


def _shown(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case bool():
            return str(value).lower()
        case str():
            return f"the text '{value if len(value) <= 40 else value[:40] + '...'}'"
        case _:
            return str(value)


def _follow(section: type[BaseModel], location: Sequence[str | int]) -> _Found:
    """Walk a location along the section's types, dropping the names of variants."""
    annotation: Any = section
    path: list[str | int] = []
    keys: Sequence[str] = ()
    for part in location:
        variants = _variants(annotation)
        if len(variants) > 1 and all(map(_is_section, variants)):
            annotation = next(variant for variant in variants if str(part) in set(_kinds(variant)))
            continue
        path.append(part)
        annotation = variants[0] if variants else None
        if _is_section(annotation):
            fields = annotation.model_fields
            keys = list(fields)
            annotation = fields[part].annotation if part in fields else None
        else:
            annotation = next(iter(get_args(annotation)), None)
    return _Found(tuple(path), keys, annotation)


def _variants(annotation: Any) -> list[Any]:
    """What an annotation allows, without None and without what pydantic hangs on it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _variants(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [inner for part in get_args(annotation) for inner in _variants(part)]
    return [] if annotation in (None, type(None)) else [annotation]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kinds(annotation: Any) -> Iterable[str]:
    """Values of `kind` that the variants of an annotation have."""
    for variant in _variants(annotation):
        yield from map(str, _literals(variant.model_fields["kind"].annotation))


def _literals(annotation: Any) -> Sequence[object]:
    return [
        word
        for variant in _variants(annotation)
        if get_origin(variant) is Literal
        for word in get_args(variant)
    ]
