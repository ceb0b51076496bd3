"""Runs programs: fetches, masks, dispatches. Every instruction is turned into a function once, then called.

Branches must be taken by all threads of a program or by none: Triton's code has no other, and anything else
is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from tests.gpu_backend.ptx import access, arithmetic, warps
from tests.gpu_backend.ptx.access import State
from tests.gpu_backend.ptx.errors import PtxUnknownError
from tests.gpu_backend.ptx.memory import Counters, GlobalMemory, SharedMemory
from tests.gpu_backend.ptx.parsing import Instruction, Program
from tests.gpu_backend.ptx.values import Array, Reader, Registers, reader

Step = Callable[[State], int | None]
_END = -1
_IGNORED = {
    ("bar", "sync"),
    ("bar", "warp", "sync"),
    ("cp", "async", "commit_group"),
    ("cp", "async", "wait_group"),
    ("cp", "async", "wait_all"),
}


class Machine:
    """Executes one parsed kernel over a grid."""

    def __init__(self, program: Program, params: dict[str, int | float], shared_bytes: int) -> None:
        self.program = program
        self.params = params
        self.shared_bytes = shared_bytes
        self._symbols = dict.fromkeys(program.shared_symbols, 0)

    def run(self, grid: tuple[int, int, int], memory: GlobalMemory) -> Counters:
        """Runs all programs, the first dimension of the grid fastest."""
        counters = memory.counters
        memory.begin_launch()
        with np.errstate(all="ignore"):
            specials = self._specials(grid)
            steps = [self._prepared(instruction, specials) for instruction in self.program.instructions]
            for number in range(grid[0] * grid[1] * grid[2]):
                x, rest = number % grid[0], number // grid[0]
                for name, index in (("x", x), ("y", rest % grid[1]), ("z", rest // grid[1])):
                    specials[f"%ctaid.{name}"][:] = index
                shared = SharedMemory(self.shared_bytes, counters)
                registers = Registers(self.program.num_threads)
                self._run_program(State(registers, memory, shared, number), steps, counters)
        memory.end_launch()
        return counters

    def _run_program(self, state: State, steps: list[Step], counters: Counters) -> None:
        at = 0
        while at != _END:
            if at >= len(steps):
                raise PtxUnknownError("ran past the end")
            counters.instructions += 1
            to = steps[at](state)
            at = at + 1 if to is None else to

    def _specials(self, grid: tuple[int, int, int]) -> dict[str, Array]:
        threads = self.program.num_threads
        lanes = np.arange(threads)
        specials: dict[str, Array] = {"%tid.x": lanes, "%laneid": lanes % warps.WARP}
        for name, size in zip("xyz", grid, strict=True):
            specials[f"%ctaid.{name}"] = np.zeros(threads, np.int64)
            specials[f"%nctaid.{name}"] = np.full(threads, size)
        return specials

    def _prepared(self, instruction: Instruction, specials: dict[str, Array]) -> Step:
        """The instruction as a function, with its guard around it."""
        if instruction.parts[0] in ("bra", "ret"):
            return self._branch(instruction)
        if instruction.parts in _IGNORED:
            return lambda state: None
        act = self._action(instruction, specials)
        guard, negated = instruction.guard, instruction.negated
        if guard is None:
            return lambda state: act(state, None)

        def guarded(state: State) -> None:
            holds = state.registers.read(guard)
            act(state, ~holds if negated else holds)

        return guarded

    def _branch(self, instruction: Instruction) -> Step:
        is_return = instruction.parts == ("ret",)
        if not is_return and (
            instruction.parts not in (("bra",), ("bra", "uni")) or len(instruction.operands) != 1
        ):
            raise PtxUnknownError(instruction.text)
        target = _END if is_return else self.program.labels[instruction.operands[0]]
        guard, negated = instruction.guard, instruction.negated

        def branch(state: State) -> int | None:
            if guard is None:
                return target
            holds = state.registers.read(guard)
            if holds.any() != holds.all():
                raise PtxUnknownError(f"threads part at: {instruction.text}")
            return target if bool(holds[0]) != negated else None

        return branch

    def _action(self, instruction: Instruction, specials: dict[str, Array]) -> access.Action:
        parts, operands = instruction.parts, instruction.operands

        def read(text: str, kind: str) -> Reader:
            return reader(text, kind, self._symbols, specials)

        match parts[0]:
            case "mov":
                return _move(instruction, read)
            case "ld" if parts[1] == "param":
                return self._parameter(instruction)
            case "ld" | "st" | "cp" | "ldmatrix":
                return access.action(instruction, read)
            case "shfl" | "redux" | "mma":
                return _warp_action(instruction, read)
        found = arithmetic.operation(parts)
        if found is None or len(operands) != 1 + len(found.operand_types):
            raise PtxUnknownError(instruction.text)
        readers = [read(text, kind) for text, kind in zip(operands[1:], found.operand_types, strict=True)]
        target, compute = operands[0], found.compute

        def act(state: State, active: access.Mask) -> None:
            values = [take(state.registers) for take in readers]
            state.registers.write(target, np.asarray(compute(*values)), active)

        return act

    def _parameter(self, instruction: Instruction) -> access.Action:
        name = instruction.operands[1].strip("[]").strip()
        kind = instruction.parts[-1]
        value = self.params[name]
        if isinstance(value, float):
            bits = np.array([value], np.float32)
        else:
            bits = np.array([value & ((1 << int(kind[1:])) - 1)], np.dtype(f"uint{kind[1:]}"))
        values = access.widened(bits, instruction.operands[0], kind)
        return lambda state, active: state.registers.write(instruction.operands[0], values, active)


def _move(instruction: Instruction, read: access.Read) -> access.Action:
    """mov: a copy, or packing and unpacking `{%rs1, %rs2}`."""
    kind, (target, source) = instruction.parts[-1], instruction.operands
    if len(instruction.parts) != 2:
        raise PtxUnknownError(instruction.text)
    if target.startswith("{"):
        names = access.vector(target)
        take, part = read(source, kind), np.dtype(f"uint{int(kind[1:]) // len(names)}")

        def unpack(state: State, active: access.Mask) -> None:
            pieces = np.ascontiguousarray(take(state.registers)).view(part).reshape(-1, len(names))
            for index, name in enumerate(names):
                state.registers.write(name, np.ascontiguousarray(pieces[:, index]), active)

        return unpack
    if source.startswith("{"):
        names = access.vector(source)
        takes = [read(name, f"b{int(kind[1:]) // len(names)}") for name in names]

        def pack(state: State, active: access.Mask) -> None:
            pieces = np.stack(
                [np.broadcast_to(t(state.registers), state.registers.num_threads) for t in takes], 1
            )
            packed = np.ascontiguousarray(pieces).view(np.dtype(f"uint{kind[1:]}")).reshape(-1)
            state.registers.write(target, packed, active)

        return pack
    take = read(source, kind)
    return lambda state, active: state.registers.write(target, take(state.registers), active)


def _warp_action(instruction: Instruction, read: access.Read) -> access.Action:
    parts, operands = instruction.parts, instruction.operands
    match parts:
        case ("shfl", "sync", mode, "b32") if len(operands) == 5:
            takes = [read(operands[1], "b32"), read(operands[2], "u32"), read(operands[3], "u32")]
            return lambda state, active: state.registers.write(
                operands[0], warps.shuffle(mode, *(take(state.registers) for take in takes)), active
            )
        case ("redux", "sync", name, ("s32" | "u32") as kind) if len(operands) == 3:
            take = read(operands[1], kind)
            return lambda state, active: state.registers.write(
                operands[0], warps.reduce(name, take(state.registers)), active
            )
        case (
            "mma",
            "sync",
            "aligned",
            "m16n8k16",
            "row",
            "col",
            "f32",
            ("f16" | "bf16") as kind,
            same,
            "f32",
        ) if kind == same and len(operands) == 4 and instruction.guard is None:
            return _matrix_action(instruction, kind)
    raise PtxUnknownError(instruction.text)


def _matrix_action(instruction: Instruction, kind: str) -> access.Action:
    d, a, b, c = (access.vector(operand) for operand in instruction.operands)
    if [len(d), len(a), len(b), len(c)] != [4, 4, 2, 4] or not all(
        re.match(r"%r\d", name) for name in (*a, *b, *c)
    ):
        raise PtxUnknownError(instruction.text)

    def act(state: State, active: access.Mask) -> None:
        take = state.registers.read
        results = warps.matrix_product(list(map(take, a)), list(map(take, b)), list(map(take, c)), kind)
        for name, values in zip(d, results, strict=True):
            state.registers.write(name, values, active)
        state.memory.counters.matrix_products += state.registers.num_threads // warps.WARP

    return act
