"""Finding a user's own class, and holding it and its options against what is asked of it.

    text or mapping  ->  module (beside the file, in the current folder, installed)  ->  class
    ->  its methods  ->  its options, by name and type

Each fault is told at its key (`OwnClassError`). Refuses to know what a class stands for: a `Role` says so.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError, ValidationInfo
from pydantic_core import core_schema

from sim.config.errors import did_you_mean
from sim.config.own import KNOWN, OwnClass, OwnClassError, Role, parameters
from sim.config.paths import expand_path, folder_of

_REFERENCE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
_KEYS = ("class", "options", "folder")
_PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


@dataclass(frozen=True, slots=True)
class ReadsOwn:
    """Marks a field that holds a class of one's own, or one of some names.

    Attributes:
        role: What a class has to be able to do.
        names: Of what is built in.
    """

    role: Role
    names: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._read, serialization=core_schema.plain_serializer_function_ser_schema(_write)
        )

    def __get_pydantic_json_schema__(self, schema: object, handler: object) -> dict[str, Any]:
        return _schema(list(self.names))

    def _read(self, value: object, info: ValidationInfo) -> str | OwnClass:
        if not self.names or not isinstance(value, str) or ":" in value:
            return _read(value, self.role, folder_of(info))
        if value not in self.names:
            hint = did_you_mean(value, self.names)
            raise ValueError(
                f"the text '{value}' is not one of {', '.join(self.names)}{hint}, nor a class of your own, "
                "such as my_module:MyClass"
            )
        return value


def _write(value: object) -> object:
    return value.to_yaml() if isinstance(value, OwnClass) else value


def _schema(names: list[str]) -> dict[str, Any]:
    reference = {"type": "string", "pattern": _PATTERN, "examples": ["my_module:MyClass"]}
    whole = {
        "type": "object",
        "properties": {"class": reference, "options": {"type": "object"}, "folder": {"type": "string"}},
        "required": ["class"],
        "additionalProperties": False,
    }
    return {"anyOf": [*([{"type": "string", "enum": names}] if names else []), reference, whole]}


def _read(value: object, role: Role, folder: Path) -> OwnClass:
    written = {"class": value} if isinstance(value, str) else value
    if not isinstance(written, dict):
        raise OwnClassError(f"must be a class of your own ({role.name}), such as my_module:MyClass")
    for key in written:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS) or f"; known here: {', '.join(_KEYS)}"
            raise OwnClassError(f"unknown key{hint}", str(key), is_key=True)
    if "class" not in written:
        raise OwnClassError("this key is required and missing: my_module:MyClass", "class")
    match = _REFERENCE.fullmatch(written["class"]) if isinstance(written["class"], str) else None
    below = ("class",) if isinstance(value, dict) else ()
    if match is None:
        raise OwnClassError("must be a module and a class in it, such as my_module:MyClass", *below)
    options = written.get("options") or {}
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise OwnClassError("must be a mapping of the constructor's parameters", "options")
    places = _places(written.get("folder"), folder)
    made, found_in, source = _load(match[1], match[2], places, below)
    _refuse_misfit(made, role, match[2], below)
    options = dict(_checked(options, made, role, match[2]))
    return OwnClass(written["class"], options, found_in, made, source)


def _places(given: object, folder: Path) -> list[Path]:
    """Folders to look in before Python's own."""
    if given is None:
        return [folder.resolve(), Path.cwd()]
    if not isinstance(given, str):
        raise OwnClassError("must be a folder, relative to the configuration", "folder")
    named = expand_path(given, folder)
    if not named.is_dir():
        raise OwnClassError(f"there is no folder {named}", "folder")
    return [named]


def _load(
    module: str, name: str, places: list[Path], below: tuple[str, ...]
) -> tuple[Callable[..., Any], str | None, Path | None]:
    """The class, the folder it was found in (None: one of Python's own places), and its file."""
    place = next((place for place in places if _file_of(module, place) is not None), None)
    try:
        loaded = importlib.import_module(module) if place is None else _import_from(module, place)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            message = f"module {module} needs {error.name}, which is not installed"
            raise OwnClassError(message, *below) from error
        looked = ", ".join(dict.fromkeys(str(each) for each in places))
        message = f"there is no module {error.name}: it is neither in {looked} nor installed"
        raise OwnClassError(message, *below) from error
    except Exception as error:
        message = f"module {module} cannot be imported: {type(error).__name__}: {error}"
        raise OwnClassError(message, *below) from error
    made = getattr(loaded, name, None)
    if made is None:
        raise OwnClassError(f"module {module} has no {name}{did_you_mean(name, vars(loaded))}", *below)
    if not callable(made):
        raise OwnClassError(f"{module}:{name} is no class", *below)
    source = getattr(loaded, "__file__", None)
    return made, None if place is None else str(place), None if source is None else Path(source)


def _file_of(module: str, place: Path) -> Path | None:
    stem = place.joinpath(*module.split("."))
    candidates = (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _import_from(module: str, place: Path) -> ModuleType:
    """Import from a folder, though a module of that name may be loaded from elsewhere."""
    cached = sys.modules.get(module)
    if cached is not None and Path(getattr(cached, "__file__", None) or "") != _file_of(module, place):
        top = module.partition(".")[0]
        for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
            del sys.modules[name]
    with _first_on_path(place):
        importlib.invalidate_caches()
        return importlib.import_module(module)


@contextmanager
def _first_on_path(place: Path) -> Iterator[None]:
    sys.path.insert(0, str(place))
    try:
        yield
    finally:
        sys.path.remove(str(place))


def _refuse_misfit(made: Callable[..., Any], role: Role, name: str, below: tuple[str, ...]) -> None:
    missing = [method for method in role.methods if not hasattr(made, method.partition("(")[0])]
    if isinstance(made, type) and missing:
        raise OwnClassError(f"{name} is no {role.name}: it lacks {', '.join(missing)}", *below)


def _checked(
    options: Mapping[str, Any], made: Callable[..., Any], role: Role, name: str
) -> Iterator[tuple[str, Any]]:
    """Options as the constructor's annotations read them."""
    asked = parameters(made)
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in asked.values())
    free = [each for each in asked if each not in role.arguments and _is_named(asked[each])]
    types = _annotations(made)
    for option, value in options.items():
        if option not in free and not takes_all:
            hint = did_you_mean(option, free) or f"; {name} takes {', '.join(free) or 'none'}"
            raise OwnClassError(f"unknown option{hint}", "options", option, is_key=True)
        yield option, _typed(value, types.get(option, Any), option)
    for each in free:
        if asked[each].default is inspect.Parameter.empty and each not in options and each not in KNOWN:
            raise OwnClassError(f"{name} needs the option {each}", "options")


def _typed(value: object, wanted: Any, option: str) -> object:
    try:
        adapter = TypeAdapter(wanted)
    except PydanticUserError:  # a type that says nothing of what it takes
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise OwnClassError(f"{value!r} does not do: {first['msg']}", "options", option) from error


def _is_named(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _annotations(made: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(inspect.getattr_static(made, "__init__") if isinstance(made, type) else made)
    except Exception:  # an annotation that cannot be read checks nothing
        return {}
