"""What one operation costs, counted as XLA counts: floating-point operations and bytes.

XLA's own sums count most of a loop's body once. These are for all of its passes, so they follow
XLA's rules, the crude ones too: a value that two operations of a fusion read may count twice, and a
copy or slice in the background counts where it starts and where it is waited for.
"""

import math
import re
from collections.abc import Iterator

from gsto_jax.plan.hlo import Array, Instruction, Program, arrays, numbers

_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("custom-call", "partition-id", "replica-id"),
}
_ONE_A_NUMBER = {
    *("abs", "add", "and", "ceil", "clamp", "clz", "compare", "convert", "divide", "floor"),
    *("is-finite", "maximum", "minimum", "multiply", "negate", "not", "or", "popcnt"),
    *("reduce-precision", "remainder", "round-nearest-afz", "round-nearest-even", "select"),
    *("shift-left", "shift-right-arithmetic", "shift-right-logical", "sign", "subtract", "xor"),
}
_MOVES = {"copy", "transpose"}
_SLICES = {"slice", "dynamic-slice", "gather"}
_LIBRARIES = ("__cublas", "__cudnn")
"""How custom calls of what reads and writes all that it is given begin, on GPUs."""


def flops(program: Program, instruction: Instruction) -> int:
    """Floating-point operations of one pass; transcendental functions count nothing."""
    opcode = instruction.opcode.removesuffix("-start")
    made = arrays(instruction.shape)
    if opcode in ("fusion", "call", "async"):
        inside = program.computations[instruction.callee]
        return sum(flops(program, x) for x in inside)
    if opcode in _ONE_A_NUMBER:
        return sum(x.elements for x in made)
    if opcode == "all-reduce":
        return sum(x.elements for shape in program.operands(instruction) for x in shape)
    if opcode == "dot":
        left = program.operands(instruction)[0][0]
        sides = _list(instruction.text, "lhs_contracting_dims")
        return 2 * made[0].elements * math.prod(left.sides[k] for k in sides)
    if opcode == "convolution":
        return _convolution(instruction.text, made[0], *program.operands(instruction)[:2])
    if opcode == "reduce":
        saved = program.operands(instruction)[0][0].elements - made[0].elements
        return saved * _reducer(program, instruction, "to_apply")
    if opcode == "reduce-window":
        window = math.prod(_window(instruction.text, "size").values()) - 1
        return made[0].elements * window * _reducer(program, instruction, "to_apply")
    if opcode == "select-and-scatter":
        source = program.operands(instruction)[1][0].elements
        window = math.prod(_window(instruction.text, "size").values()) - 1
        chosen = window * _reducer(program, instruction, "select")
        return source * (chosen + _reducer(program, instruction, "scatter"))
    return 0


def estimated(instruction: Instruction) -> dict[str, int]:
    """What a kernel says of itself, which XLA believes; empty where it says nothing.

    Returns:
      "flops" and "bytes_accessed".
    """
    found = re.search(r'"cost_estimate":\{([^}]*)\}', instruction.text)
    return {k: int(n) for k, n in re.findall(r'"(\w+)":"(\d+)"', found[1])} if found else {}


def fetched(program: Program, kernel: Instruction) -> int:
    """Bytes that a kernel moves between the chip's memory and its cores, each once."""
    shapes = [arrays(kernel.shape), *program.operands(kernel)]
    return sum(x.padded_bytes for shape in shapes for x in shape if not x.on_chip)


def relayouts(program: Program, kernel: Instruction) -> Iterator[Instruction]:
    """Right before and behind a kernel, what only brings a map into another order."""
    home = program.home[kernel.name]
    for name in kernel.operands:
        operand = program.behind(home, name, ("bitcast", "copy-done", "copy-start"))
        if operand is not None and _only_moves(program, operand):
            yield operand
    found = [kernel]
    while found:
        for user in program.users(home, found.pop().name):
            if user.opcode in ("bitcast", "get-tuple-element", "copy-done", "copy-start"):
                found.append(user)
            elif _only_moves(program, user):
                yield user


def _only_moves(program: Program, instruction: Instruction) -> bool:
    if instruction.opcode == "fusion":
        inside = {x.opcode for x in program.computations[instruction.callee]}
        return bool(inside & _MOVES) and inside <= _MOVES | {"parameter", "bitcast", "reshape"}
    return instruction.opcode in _MOVES


def _reducer(program: Program, instruction: Instruction, kind: str) -> int:
    inside = program.computations[str(instruction.called(kind))]
    return sum(flops(program, x) for x in inside)


def _convolution(text: str, made: Array, inputs: list[Array], kernel: list[Array]) -> int:
    """Two for each product, those with padding left out."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", text)
    assert labels is not None
    lengths = [
        dict(zip(names, array.sides, strict=True))
        for names, array in zip(labels.groups(), (inputs[0], kernel[0], made), strict=True)
    ]
    of_input, of_kernel, of_output = lengths
    products = of_kernel["i"] * of_output["b"] * of_output["f"]
    for place, label in enumerate(sorted(x for x in of_kernel if x.isdigit())):
        stride, step, spread = (
            (_window(text, name) or {place: 1})[place]
            for name in ("stride", "rhs_dilate", "lhs_dilate")
        )
        low = (_window(text, "pad", r"(-?\d+)_-?\d+") or {place: 0})[place]
        reach = (of_input[label] - 1) * spread + 1
        starts = (place * stride - low for place in range(of_output[label]))
        products *= sum(
            0 <= start + tap * step < reach and (start + tap * step) % spread == 0
            for start in starts
            for tap in range(of_kernel[label])
        )
    return 2 * products


def accessed(program: Program, instruction: Instruction) -> int:
    """Bytes that one pass reads and writes, as they lie in memory, padded to tiles."""
    opcode = instruction.opcode
    whole = instruction.is_kernel or instruction.target.startswith(_LIBRARIES)
    if opcode in _FREE and not whole:
        return 0
    made = _padded(arrays(instruction.shape))
    read = [_padded(shape) for shape in program.operands(instruction)]
    if opcode == "copy-start":
        return 2 * read[0]
    if opcode == "copy-done":
        return 2 * made
    if opcode.endswith(("-done", "-update")):
        return made if _waits_for_slice(program, instruction) else 0
    if opcode.removesuffix("-start") in _SLICES:
        return 2 * _padded(arrays(instruction.result)) + sum(read[1:])
    if opcode == "dynamic-update-slice":
        return 2 * read[1] + sum(read[2:])
    if opcode == "fusion":
        inside = program.computations[instruction.callee]
        parameters = [x for x in inside if x.opcode == "parameter"]
        written = sum(_written(program, x) for x in _results(program, instruction.callee))
        return written + sum(_read_inside(program, instruction.callee, x) for x in parameters)
    return made + sum(read)


def _waits_for_slice(program: Program, done: Instruction) -> bool:
    """Whether a slice in the background ends here, written as one operation or as a computation."""
    if done.opcode == "async-done":
        start = program.named[program.home[done.name]][done.operands[0]]
        return start.opcode == "async-start" and program.root(start.callee).opcode in _SLICES
    return done.opcode.removesuffix("-done") in _SLICES


def _results(program: Program, computation: str) -> list[Instruction]:
    root = program.root(computation)
    if root.opcode != "tuple":
        return [root]
    return [program.named[computation][name] for name in root.operands]


def _written(program: Program, result: Instruction) -> int:
    """Bytes of a fusion's result; of one that is changed in place, those that change."""
    if result.opcode == "dynamic-update-slice":
        return _padded(program.operands(result)[1])
    return _padded(arrays(result.shape))


def _read_inside(program: Program, computation: str, parameter: Instruction) -> int:
    """Bytes of a parameter that a fusion reads: of what only slices see, the slices."""
    whole, size, counted = _padded(arrays(parameter.shape)), 0, False
    for user in program.users(computation, parameter.name):
        first = user.operands[0] == parameter.name
        if user.opcode == "fusion":
            inside = {
                x.operands[0]: x
                for x in program.computations[user.callee]
                if x.opcode == "parameter"
            }
            for place, name in enumerate(user.operands):
                if name == parameter.name:
                    size += _read_inside(program, user.callee, inside[str(place)])
        elif user.opcode == "slice" or (user.opcode == "dynamic-slice" and first):
            size += _padded(arrays(user.shape))
        elif user.opcode == "dynamic-update-slice" and first:
            size += _padded(program.operands(user)[1])
        elif user.opcode in ("broadcast", "reshape"):
            size += whole
        elif not counted:
            counted = True
            size += whole
    return size


def _padded(shapes: list[Array]) -> int:
    return sum(x.padded_bytes for x in shapes)


def _list(text: str, name: str) -> tuple[int, ...]:
    found = re.search(rf"{name}=\{{([\d,]*)\}}", text)
    return numbers(found[1]) if found else ()


def _window(text: str, field: str, number: str = r"(\d+)") -> dict[int, int]:
    """A field of `window={size=3x3 stride=2x2 pad=0_1x0_1}` by place; empty if it is not given."""
    found = re.search(rf"window=\{{[^}}]*\b{field}=([^\s}}]+)", text)
    return dict(enumerate(map(int, re.findall(number, found[1])))) if found else {}
