"""Counts FLOPs and bytes accessed of HLO instructions by the rules of XLA's cost analysis.

The totals can include every loop iteration, which XLA's own do not. They follow XLA's rules, even
the crude ones: a value that two operations of a fusion read may count twice, and an asynchronous
copy or slice counts at its start and at its end.
"""

import math
import re
from collections.abc import Iterator

from gsto_jax.plan.hlo import HLOArray, HLOProgram, Instruction, parse_arrays, parse_ints

_NO_BYTES = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("custom-call", "partition-id", "replica-id"),
}
_ONE_FLOP_PER_ELEMENT = {
    *("abs", "add", "and", "ceil", "clamp", "clz", "compare", "convert", "divide", "floor"),
    *("is-finite", "maximum", "minimum", "multiply", "negate", "not", "or", "popcnt"),
    *("reduce-precision", "remainder", "round-nearest-afz", "round-nearest-even", "select"),
    *("shift-left", "shift-right-arithmetic", "shift-right-logical", "sign", "subtract", "xor"),
}
_RELAYOUTS = {"copy", "transpose"}
_SLICES = {"slice", "dynamic-slice", "gather"}
_GPU_LIBRARIES = ("__cublas", "__cudnn")
"""Prefixes of custom call targets on GPUs that access all operands and results."""


def flops(program: HLOProgram, instruction: Instruction) -> int:
    """Returns the FLOPs of one execution; transcendental functions count as zero."""
    opcode = instruction.opcode.removesuffix("-start")
    results = parse_arrays(instruction.shape)
    if opcode in ("fusion", "call", "async"):
        return sum(flops(program, x) for x in program.computations[instruction.callee])
    if opcode in _ONE_FLOP_PER_ELEMENT:
        return sum(x.num_elements for x in results)
    if opcode == "all-reduce":
        return sum(x.num_elements for arrays in program.operand_arrays(instruction) for x in arrays)
    if opcode == "dot":
        left = program.operand_arrays(instruction)[0][0]
        match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)
        contracted = parse_ints(match[1]) if match else ()
        return 2 * results[0].num_elements * math.prod(left.shape[k] for k in contracted)
    if opcode == "convolution":
        inputs, kernel = program.operand_arrays(instruction)[:2]
        return _convolution_flops(instruction.text, inputs[0], kernel[0], results[0])
    if opcode == "reduce":
        reduced = program.operand_arrays(instruction)[0][0].num_elements - results[0].num_elements
        return reduced * _reducer_flops(program, instruction, "to_apply")
    if opcode == "reduce-window":
        window = math.prod(_window(instruction.text, "size").values()) - 1
        reducer = _reducer_flops(program, instruction, "to_apply")
        return results[0].num_elements * window * reducer
    if opcode == "select-and-scatter":
        source = program.operand_arrays(instruction)[1][0].num_elements
        window = math.prod(_window(instruction.text, "size").values()) - 1
        selection = window * _reducer_flops(program, instruction, "select")
        return source * (selection + _reducer_flops(program, instruction, "scatter"))
    return 0


def declared_cost(kernel: Instruction) -> dict[str, int]:
    """Returns "flops" and "bytes_accessed" of a kernel's cost estimate; empty without one."""
    match = re.search(r'"cost_estimate":\{([^}]*)\}', kernel.text)
    return {k: int(n) for k, n in re.findall(r'"(\w+)":"(\d+)"', match[1])} if match else {}


def adjacent_relayouts(program: HLOProgram, kernel: Instruction) -> Iterator[Instruction]:
    """Yields the instructions next to a kernel that only change the layout of an array."""
    computation = program.computation_of[kernel.name]
    for name in kernel.operands:
        operand = program.producer(computation, name, ("bitcast", "copy-done", "copy-start"))
        if operand is not None and _is_relayout(program, operand):
            yield operand
    pending = [kernel]
    while pending:
        for user in program.users(computation, pending.pop().name):
            if user.opcode in ("bitcast", "get-tuple-element", "copy-done", "copy-start"):
                pending.append(user)
            elif _is_relayout(program, user):
                yield user


def _is_relayout(program: HLOProgram, instruction: Instruction) -> bool:
    if instruction.opcode == "fusion":
        opcodes = {x.opcode for x in program.computations[instruction.callee]}
        passive = {"parameter", "bitcast", "reshape"}
        return bool(opcodes & _RELAYOUTS) and opcodes <= _RELAYOUTS | passive
    return instruction.opcode in _RELAYOUTS


def _reducer_flops(program: HLOProgram, instruction: Instruction, attribute: str) -> int:
    computation = program.computations[instruction.called(attribute)]
    return sum(flops(program, x) for x in computation)


def _convolution_flops(text: str, inputs: HLOArray, kernel: HLOArray, output: HLOArray) -> int:
    """Returns two FLOPs for each product, without products with padding."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", text)
    assert labels is not None
    input_shape, kernel_shape, output_shape = (
        dict(zip(names, array.shape, strict=True))
        for names, array in zip(labels.groups(), (inputs, kernel, output), strict=True)
    )
    products = kernel_shape["i"] * output_shape["b"] * output_shape["f"]
    for n, label in enumerate(sorted(x for x in kernel_shape if x.isdigit())):
        stride, kernel_dilation, input_dilation = (
            (_window(text, name) or {n: 1})[n] for name in ("stride", "rhs_dilate", "lhs_dilate")
        )
        low = (_window(text, "pad", r"(-?\d+)_-?\d+") or {n: 0})[n]
        extent = (input_shape[label] - 1) * input_dilation + 1
        starts = (start * stride - low for start in range(output_shape[label]))
        products *= sum(
            0 <= start + tap * kernel_dilation < extent
            and (start + tap * kernel_dilation) % input_dilation == 0
            for start in starts
            for tap in range(kernel_shape[label])
        )
    return 2 * products


def bytes_accessed(program: HLOProgram, instruction: Instruction) -> int:
    """Returns the bytes that one execution reads and writes, padded to tiles."""
    opcode = instruction.opcode
    if opcode in _NO_BYTES and not _is_opaque_call(instruction):
        return 0
    output = _padded_nbytes(parse_arrays(instruction.shape))
    operands = [_padded_nbytes(arrays) for arrays in program.operand_arrays(instruction)]
    if opcode == "copy-start":
        return 2 * operands[0]
    if opcode == "copy-done":
        return 2 * output
    if opcode.endswith(("-done", "-update")):
        return output if _ends_slice(program, instruction) else 0
    if opcode.removesuffix("-start") in _SLICES:
        return 2 * _padded_nbytes(parse_arrays(instruction.result_shape)) + sum(operands[1:])
    if opcode == "dynamic-update-slice":
        return 2 * operands[1] + sum(operands[2:])
    if opcode == "fusion":
        callee = instruction.callee
        parameters = [x for x in program.computations[callee] if x.opcode == "parameter"]
        written = sum(_bytes_written(program, x) for x in _fusion_results(program, callee))
        return written + sum(_bytes_read(program, callee, x) for x in parameters)
    return output + sum(operands)


def hbm_bytes(program: HLOProgram, instruction: Instruction) -> int:
    """Returns the bytes that one execution moves from or to HBM, padded to tiles.

    Unlike `bytes_accessed`, it leaves out on-chip memory, and counts an asynchronous copy once.
    """
    opcode = instruction.opcode
    results = parse_arrays(instruction.shape)
    operands = program.operand_arrays(instruction)
    if opcode in _NO_BYTES and not _is_opaque_call(instruction):
        return 0
    if opcode.endswith(("-done", "-update")):
        return 0
    if opcode in ("copy-start", "slice-start"):
        # Source and destination; the source of a slice is larger than the slice.
        ends = [x for x in results if x.num_elements > 1][:2]
        return min(x.padded_nbytes for x in ends) * sum(not x.on_chip for x in ends)
    if opcode == "fusion":
        callee = instruction.callee
        made = _fusion_results(program, callee)
        if len(made) == len(results):
            pairs = zip(made, results, strict=True)
            total = sum(_bytes_written(program, x) for x, array in pairs if not array.on_chip)
        else:  # one operation with several results, such as the reduction of an argmax
            total = _padded_nbytes([x for x in results if not x.on_chip])
        for x in program.computations[callee]:
            if x.opcode == "parameter" and not any(y.on_chip for y in operands[int(x.operands[0])]):
                total += _bytes_read(program, callee, x)
        return total
    if opcode in _SLICES:
        ends = [results[0], operands[0][0]]
        return results[0].padded_nbytes * sum(not x.on_chip for x in ends)
    if any(x.on_chip for arrays in (results, *operands) for x in arrays):
        in_hbm = [x for arrays in (results, *operands) for x in arrays if not x.on_chip]
        return _padded_nbytes(in_hbm)
    return bytes_accessed(program, instruction)


def _is_opaque_call(instruction: Instruction) -> bool:
    """Returns whether a custom call accesses all its operands and results."""
    return instruction.is_kernel or instruction.custom_call_target.startswith(_GPU_LIBRARIES)


def _ends_slice(program: HLOProgram, done: Instruction) -> bool:
    """Returns whether an asynchronous slice ends here, as one instruction or a computation."""
    if done.opcode == "async-done":
        start = program.by_name[program.computation_of[done.name]][done.operands[0]]
        return start.opcode == "async-start" and program.root(start.callee).opcode in _SLICES
    return done.opcode.removesuffix("-done") in _SLICES


def _fusion_results(program: HLOProgram, computation: str) -> list[Instruction]:
    root = program.root(computation)
    if root.opcode != "tuple":
        return [root]
    return [program.by_name[computation][name] for name in root.operands]


def _bytes_written(program: HLOProgram, result: Instruction) -> int:
    """Returns the bytes of a fusion result; of an in-place update, the updated bytes."""
    if result.opcode == "dynamic-update-slice":
        return _padded_nbytes(program.operand_arrays(result)[1])
    return _padded_nbytes(parse_arrays(result.shape))


def _bytes_read(program: HLOProgram, computation: str, parameter: Instruction) -> int:
    """Returns the bytes that a fusion reads of a parameter; slices read only their result."""
    total, size, counted = _padded_nbytes(parse_arrays(parameter.shape)), 0, False
    for user in program.users(computation, parameter.name):
        is_first = user.operands[0] == parameter.name
        if user.opcode == "fusion":
            parameters = {
                x.operands[0]: x
                for x in program.computations[user.callee]
                if x.opcode == "parameter"
            }
            for n, name in enumerate(user.operands):
                if name == parameter.name:
                    size += _bytes_read(program, user.callee, parameters[str(n)])
        elif user.opcode == "slice" or (user.opcode == "dynamic-slice" and is_first):
            size += _padded_nbytes(parse_arrays(user.shape))
        elif user.opcode == "dynamic-update-slice" and is_first:
            size += _padded_nbytes(program.operand_arrays(user)[1])
        elif user.opcode in ("broadcast", "reshape"):
            size += total
        elif not counted:
            counted = True
            size += total
    return size


def _padded_nbytes(arrays: list[HLOArray]) -> int:
    return sum(x.padded_nbytes for x in arrays)


def _window(text: str, field: str, value: str = r"(\d+)") -> dict[int, int]:
    """Returns a field of `window={size=3x3 pad=0_1x0_1}` by dimension; empty if it is not set."""
    match = re.search(rf"window=\{{[^}}]*\b{field}=([^\s}}]+)", text)
    return dict(enumerate(map(int, re.findall(value, match[1])))) if match else {}
