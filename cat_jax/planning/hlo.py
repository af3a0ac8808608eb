"""What a compiled program does, read off its text: loops counted as often as they run.

`cost_analysis()` counts the body of a loop once, and says nothing of collectives.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^}]*\})?")
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "f32": 4, "f64": 8}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_NOTHING = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: `%name = type opcode(rest`, `rest` being operands and attributes."""

    name: str
    type: str
    opcode: str
    rest: str

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute names."""
        match = re.search(rf"{attribute}=%?([\w.-]+)", self.rest)
        return match and match[1]

    def operands(self) -> list[str]:
        """Names of the operands."""
        return re.findall(r"%([\w.-]+)", self.rest.split("), ", 1)[0])


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of one kind and size, and how often a chip takes part in it in a step."""

    kind: str
    bytes: int  # of the result on one chip; for a reduce-scatter of what goes in
    group: int  # chips that take part
    times: int

    def sent(self) -> float:
        """Bytes that a chip sends in all, around a ring."""
        share = (self.group - 1) / self.group
        rounds = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return rounds * self.bytes * self.times


class HloProgram:
    """A compiled program, from `Compiled.as_text()`."""

    def __init__(self, text: str):
        self._bodies: dict[str, list[Instruction]] = {}
        self._entry = current = ""
        for line in text.splitlines():
            if match := _COMPUTATION.match(line):
                current = match[2]
                self._bodies[current] = []
                self._entry = current if match[1] else self._entry
            elif current and (match := _INSTRUCTION.match(line)):
                self._bodies[current].append(Instruction(*match.groups()))

    def cycles(self) -> int:
        """Cycles as the TPU's compiler estimates them, without collectives; 0 where a compiler estimates none."""
        total = 0
        for _, instruction, times in self._run():
            if match := re.search(r'"estimated_cycles":"?(\d+)', instruction.rest):
                total += int(match[1]) * times
        return total

    def collectives(self) -> list[Collective]:
        """Those of a step, equal ones together, greatest first."""
        found: dict[tuple[str, int, int], int] = {}
        seen: set[tuple[str, str]] = set()
        for body, instruction, times in self._run():
            for each in self._within(instruction):
                kind = next((kind for kind in COLLECTIVES if each.opcode in (kind, f"{kind}-start")), None)
                if kind is None:
                    continue
                # The parts of one that is asynchronous lie in several fusions and share its channel.
                channel = re.search(r"channel_id=(\d+)", each.rest)
                key = (body, channel[1] if channel else each.name)
                if key not in seen:
                    seen.add(key)
                    group = _group(each.rest)
                    size = _size(_result(each)) * (group if kind == "reduce-scatter" else 1)
                    same = (kind, int(size), group)
                    found[same] = found.get(same, 0) + times
        each = [Collective(*key, times) for key, times in found.items() if key[2] > 1]
        return sorted(each, key=Collective.sent, reverse=True)

    def bytes_moved(self) -> int:
        """Bytes that instructions read from memory and write to it (TPU: HBM alone), each as often as it runs.

        Of what is sliced only the slice counts, and what is updated in place counts as the update.
        """
        total = 0.0
        types: dict[str, dict[str, str]] = {}
        for body, instruction, times in self._run():
            if instruction.opcode in _NOTHING or instruction.opcode.endswith(("-done", "-update")):
                continue
            if body not in types:
                types[body] = {each.name: each.type for each in self._bodies[body]}
            total += self._traffic(instruction, types[body]) * times
        return int(total)

    def _traffic(self, instruction: Instruction, types: dict[str, str]) -> float:
        operands = [types.get(name, "") for name in instruction.operands()]
        fused = self._bodies.get(instruction.called("calls") or "", [])
        written = _size(instruction.type, on_chip=False)
        if instruction.opcode in ("dynamic-slice", "gather"):
            return 2 * written
        if instruction.opcode.endswith("-start"):  # of a copy, a slice or a collective: what goes in, and comes out
            return sum(_size(element, on_chip=False) for element in _elements(instruction.type)[:2])
        if instruction.opcode == "dynamic-update-slice":
            return 2 * _size(operands[1], on_chip=False)
        reads = [_size(operand, on_chip=False) for operand in operands]
        inner = {each.name: each for each in fused}
        for each in fused:
            if each.opcode == "parameter":
                users = [user for user in fused if each.name in user.operands()]
                number = int(each.rest.split(")")[0])
                if users and all(user.opcode in ("dynamic-slice", "gather") for user in users) and number < len(reads):
                    reads[number] = min(reads[number], sum(_size(user.type) for user in users))
                elif number < len(reads) and any(
                    user.opcode == "dynamic-update-slice" and user.operands()[:1] == [each.name] for user in users
                ):
                    reads[number] = 0.0
        updates = [each for each in fused if each.opcode == "dynamic-update-slice"]
        if updates:
            sizes = [_size(inner[each.operands()[1]].type) for each in updates if each.operands()[1] in inner]
            whole = sum(_size(each.type) for each in updates)
            written = max(written - whole, 0.0) + sum(sizes)
        return written + sum(reads)

    def _run(self) -> Iterator[tuple[str, Instruction, int]]:
        """(computation, instruction, how often) of all that is run, fusions as one instruction."""

        def of(name: str, times: int) -> Iterator[tuple[str, Instruction, int]]:
            for instruction in self._bodies.get(name, []):
                yield name, instruction, times
                if instruction.opcode == "while":
                    yield from of(instruction.called("body") or "", times * self._trips(instruction))
                elif instruction.opcode == "conditional":
                    # Which branch is taken is not known: the one with most to do counts.
                    yield from of(max(_branches(instruction), key=lambda name: len(self._bodies.get(name, []))), times)
                elif instruction.opcode == "call":
                    yield from of(instruction.called("to_apply") or "", times)

        yield from of(self._entry, 1)

    def _trips(self, loop: Instruction) -> int:
        """How often a loop runs: what its condition compares with; of one that may end early, at most."""
        if match := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(match[1])
        condition = self._bodies.get(loop.called("condition") or "", [])
        limits = [
            int(each.rest.split(")")[0])
            for instruction in condition
            for each in self._within(instruction)
            if each.opcode == "constant" and re.match(r"s(32|64)\[\]", each.type)
        ]
        return max(limits, default=1)

    def _within(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instruction, or what the computation that it calls holds."""
        yield instruction
        if called := instruction.called("calls"):
            for each in self._bodies.get(called, []):
                yield from self._within(each)


def _branches(instruction: Instruction) -> list[str]:
    """The computations of a conditional."""
    if match := re.search(r"branch_computations=\{([^}]*)\}", instruction.rest):
        return re.findall(r"%?([\w.-]+)", match[1])
    return re.findall(r"(?:true|false)_computation=%?([\w.-]+)", instruction.rest)


def _result(instruction: Instruction) -> str:
    """The type of what comes out; of an asynchronous start without the operand and the context beside it."""
    elements = _elements(instruction.type)
    if not instruction.opcode.endswith("-start") or len(elements) == 1:
        return instruction.type
    # A copy's destination comes first, of the others the operand does; those of several arrays have tuples for both.
    return elements[0] if instruction.opcode == "copy-start" else elements[1]


def _elements(type_: str) -> list[str]:
    """The types in a tuple; another type alone."""
    if not type_.startswith("("):
        return [type_]
    elements, depth = [""], 0
    for character in type_[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += character
    return elements


def _size(type_: str, *, on_chip: bool = True) -> float:
    """Bytes of a type, a tuple's together; without `on_chip` those in HBM alone (S(1) and beyond are on the chip)."""
    total = 0.0
    for dtype, dims, layout in _SHAPE.findall(type_):
        if not on_chip and re.search(r"S\([1-9]", layout):
            continue
        digits = re.search(r"\d+", dtype)
        width = _BYTES.get(dtype, int(digits[0]) / 8 if digits else 0)
        total += width * math.prod(int(n) for n in dims.split(",") if n)
    return total


def _group(attributes: str) -> int:
    """Chips in one group of a collective."""
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
        return int(match[2])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=mesh\[(.*?)\] ?\{(.*?)\}", attributes):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", match[2])  # an axis, or so many of its parts
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return 2 if "source_target_pairs" in attributes else 1
