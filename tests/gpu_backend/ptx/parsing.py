"""PTX text to instructions. Knows the syntax that Triton's output uses, and no meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.gpu_backend.ptx.errors import PtxUnknownError

_ENTRY = re.compile(r"\.visible \.entry (\w+)\((.*?)\)\s*((?:\.\w+ [\d, ]+\s*)*)\{(.*)\n\}", re.DOTALL)
_GUARD = re.compile(r"@(!?)(%\w+)\s+")
_SHARED = re.compile(r"^\.extern \.shared .* (\w+)\[\];", re.MULTILINE)
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: `ld.global.b32 { %r1 }, [ %rd1 + 4 ]` has parts ld, global, b32 and two operands."""

    text: str
    parts: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str | None  # register of the predicate
    negated: bool


@dataclass(frozen=True, slots=True)
class Program:
    """A parsed kernel."""

    name: str
    params: tuple[str, ...]
    num_threads: int
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]  # index of the instruction that follows
    shared_symbols: tuple[str, ...]


def parse(text: str) -> Program:
    """Parses a module with one entry.

    Raises:
        PtxUnknownError: where there is no entry, or its form is not the one that Triton writes.
    """
    plain = re.sub(r"//[^\n]*", "", text)
    entry = _ENTRY.search(plain)
    if entry is None:
        raise PtxUnknownError("no entry in this PTX")
    name, params, directives, body = entry.groups()
    threads = re.search(r"\.reqntid (\d+)", directives)
    if threads is None:
        raise PtxUnknownError("the entry does not say how many threads it needs")
    instructions, labels = _body(body)
    names = tuple(re.findall(r"(\w+_param_\d+)", params))
    return Program(name, names, int(threads[1]), instructions, labels, tuple(_SHARED.findall(plain)))


def _body(body: str) -> tuple[tuple[Instruction, ...], dict[str, int]]:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in body.splitlines():
        rest = line.strip()
        while label := re.match(r"(\$\w+):\s*", rest):
            labels[label[1]] = len(instructions)
            rest = rest[label.end() :]
        if not rest or rest.startswith("."):
            continue
        instructions += [_instruction(text.strip()) for text in rest.split(";") if text.strip()]
    return tuple(instructions), labels


def _instruction(text: str) -> Instruction:
    guard = _GUARD.match(text)
    rest = text[guard.end() :] if guard else text
    opcode, _, operands = rest.partition(" ") if "\t" not in rest else rest.partition("\t")
    if not re.fullmatch(r"[a-z][\w.:]*", opcode.strip()):
        raise PtxUnknownError(f"not an instruction: {text}")
    split = tuple(operand.strip() for operand in _OPERAND.findall(operands))
    parts = tuple(opcode.strip().replace("::", ".").split("."))
    return Instruction(text, parts, split, guard[2] if guard else None, bool(guard and guard[1]))
