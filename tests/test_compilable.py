"""What the wheel compiles is written so that compiled and plain code do the same; each rule says why.

The compiler refuses some of these constructs, far from here, when a wheel is made. Others it takes, and they
mean something else. `[tool.pagecast]` in pyproject.toml names the files.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
_LISTS = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pagecast"]
ORDINARY_BASES = {"Enum", "NamedTuple", "Protocol"}
"""Made by the library's own machinery at run time: they stay ordinary classes without a mark."""
OPEN, ORDINARY = "allow_interpreted_subclasses=True", "native_class=False"
METHOD_DECORATORS = {"property", "setter", "staticmethod", "classmethod"}
NAMESPACES = {"locals", "vars", "eval", "exec"}


def compiled_files() -> list[str]:
    """Files the wheel compiles, relative to the checkout."""
    names = {path.relative_to(REPO).as_posix() for glob in _LISTS["compiled"] for path in REPO.glob(glob)}
    return sorted(name for name in names if not any(fnmatch(name, plain) for plain in _LISTS["plain"]))


def findings(source: str) -> Iterator[str]:
    """Everything in a file that compiled would fail, or differ, with the reason."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from (f"line {node.lineno}: class {node.name} {why}" for why in _about_class(node))
            if node not in tree.body:
                yield f"line {node.lineno}: class {node.name} stands in a class or function: move it out"
        elif isinstance(node, ast.Delete) and any(isinstance(at, ast.Attribute) for at in node.targets):
            yield f"line {node.lineno}: attributes of compiled classes cannot be deleted: give it a value"
        elif isinstance(node, ast.Call) and _name(node.func) in NAMESPACES:
            yield f"line {node.lineno}: {_name(node.func)}() sees no names of compiled functions and classes"


def _about_class(node: ast.ClassDef) -> Iterator[str]:
    bases = sorted({_name(base) for base in node.bases})
    marks = {_mark(decorator) for decorator in node.decorator_list}
    if ORDINARY in marks:
        return
    if any(_name(decorator) == "dataclass" for decorator in node.decorator_list):
        yield f"is a dataclass: compiled it could not be pickled or copied; mark it @mypyc_attr({ORDINARY})"
        return
    if bases and set(bases) <= ORDINARY_BASES:
        return
    if node.keywords or len(bases) > 1:
        yield "has several bases or a metaclass: a compiled class has one base, and that is all"
    elif bases:
        yield (
            f"inherits from {bases[0]}: where that is a class of Python itself or of another library, hold "
            f"one instead of being one; errors are marked @mypyc_attr({ORDINARY})"
        )
    elif OPEN not in marks:
        yield f"could not be subclassed by a user: mark it @mypyc_attr({OPEN})"
    yield from _about_body(node)


def _about_body(node: ast.ClassDef) -> Iterator[str]:
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    for item in node.body:
        if isinstance(item, ast.Assign) and _name(item.value) in methods:
            yield f"has {_name(item.value)} under a second name, read before it is there: write it out"
        if isinstance(item, ast.FunctionDef):
            others = {_name(decorator) for decorator in item.decorator_list} - METHOD_DECORATORS
            if others:
                yield (
                    f"decorates {item.name} with {', '.join(sorted(others))}: compiled callers may go around "
                    "that (a cached_property is computed each time)"
                )


def _name(node: ast.expr) -> str:
    """The last part of a name, whatever it is called or indexed with."""
    match node:
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return _name(inner)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def _mark(node: ast.expr) -> str:
    if isinstance(node, ast.Call) and _name(node) == "mypyc_attr":
        return ", ".join(ast.unparse(keyword) for keyword in node.keywords)
    return ""


def test_there_is_something_to_compile() -> None:
    assert "sim/core/scheduler.py" in compiled_files()
    assert all(any(fnmatch(name, glob) for name in compiled_files()) for glob in _LISTS["compiled"])


@pytest.mark.parametrize("name", compiled_files())
def test_compiled_files_hold_nothing_that_the_compiler_does_not_take(name: str) -> None:
    found = list(findings((REPO / name).read_text(encoding="utf-8")))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("class Queue(deque[int]): ...", "hold one instead of being one"),
        ("class NoRoomError(RuntimeError): ...", "errors are marked @mypyc_attr(native_class=False)"),
        ("class Pool: ...", "could not be subclassed"),
        ("@dataclass(frozen=True)\nclass Config: ...", "could not be pickled or copied"),
        (f"@mypyc_attr({OPEN})\n@dataclass\nclass Config: ...", "could not be pickled or copied"),
        (f"@mypyc_attr({OPEN})\nclass A(B, C): ...", "several bases"),
        (f"@mypyc_attr({OPEN})\nclass A(metaclass=M): ...", "metaclass"),
        (f"@mypyc_attr({OPEN})\nclass A:\n  def f(self): ...\n  g = f", "f under a second name"),
        (
            f"@mypyc_attr({OPEN})\nclass A:\n  @cached_property\n  def f(self): ...",
            "decorates f with cached_property",
        ),
        ("def f():\n  class A(Enum): ...", "stands in a class or function"),
        ("def f(a):\n  del a.b", "cannot be deleted"),
        ("def f():\n  return locals()", "sees no names"),
    ],
)
def test_each_construct_is_found_and_told_with_its_reason(source: str, reason: str) -> None:
    (found,) = findings(source)
    assert reason in found


@pytest.mark.parametrize(
    "source",
    [
        "class Kind(Enum):\n  A = 1",
        "class Row(NamedTuple):\n  a: int",
        f"@mypyc_attr({OPEN})\nclass A:\n  @property\n  def f(self): ...\n  @f.setter\n  def f(self, a): ...",
        f"@mypyc_attr({ORDINARY})\n@dataclass(slots=True)\nclass A:\n  a: int",
        f"@mypyc_attr({ORDINARY})\nclass NoRoomError(RuntimeError): ...",
        "def f(a):\n  del a[0]",
    ],
)
def test_what_the_compiler_takes_is_let_through(source: str) -> None:
    assert not list(findings(source))
