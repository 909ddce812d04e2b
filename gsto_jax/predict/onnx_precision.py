"""ONNX models in float16 and int8 (extra `onnx`).

Only the network changes, from the first convolution to its output. Normalization, resampling
weights, softmax, upsampled logits and decoding stay float32, inputs uint8 and outputs float32.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gsto_jax.files import name_in_errors
from gsto_jax.predict.onnx_graph import Graph

PRECISIONS = ("float16", "int8")
_QUANTIZED_KINDS = ("Conv", "Relu", "Add")
_FLOAT32_KINDS = ("Exp", "ReduceSum", "Div")
"""Nodes of softmax and means, which stay float32: sums over all pixels exceed float16."""
_MAX_FOLLOWING = 4
"""Nodes after a convolution, such as its transpose and bias, within which the network goes on."""


def to_float16(model_bytes: bytes) -> bytes:
    """Converts the network in an ONNX model to float16.

    The converter of onnxruntime rounds values between nodes that stay float32 as well.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(model_bytes))
    converter = _Float16Converter(model)
    nodes = [x for node in model.graph.node for x in converter.convert(node)]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    Graph(model).remove_unused()
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class _Float16Converter:
    """Converts the nodes of a network to float16, with casts around it."""

    def __init__(self, model: Any) -> None:
        import onnx

        self._onnx, self._graph = onnx, model.graph
        float32 = [x for x in model.graph.node if x.op_type in _FLOAT32_KINDS]
        self._network = _network_values(model) - {name for x in float32 for name in x.output}
        self._constants = {x.name: x for x in model.graph.initializer}
        typed = (*model.graph.value_info, *model.graph.input, *model.graph.output)
        self._types = {x.name: x.type.tensor_type.elem_type for x in typed}
        self._types |= {name: x.data_type for name, x in self._constants.items()}
        self._casts: dict[str, str] = {}

    def convert(self, node: Any) -> Iterator[Any]:
        """Yields a node with the casts that it needs."""
        is_network = bool(self._network & set(node.output))
        dtype = self._onnx.TensorProto.FLOAT16 if is_network else self._onnx.TensorProto.FLOAT
        # The scales of a resize are float32 in any case.
        inputs = node.input[:1] if node.op_type == "Resize" else node.input
        for n, name in enumerate(inputs):
            is_float = self._types.get(name) == self._onnx.TensorProto.FLOAT
            if is_float and is_network != (name in self._network):
                if name not in self._casts:
                    self._casts[name] = f"{name}_{'float16' if is_network else 'float32'}"
                    yield from self._cast(name, dtype)
                node.input[n] = self._casts[name]
        if is_network and node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.i == self._onnx.TensorProto.FLOAT:
                    attribute.i = dtype
        yield node

    def _cast(self, name: str, dtype: int) -> Iterator[Any]:
        if name in self._constants:
            values = self._onnx.numpy_helper.to_array(self._constants[name])
            limit = np.finfo(np.float16).max
            half = values.clip(-limit, limit).astype(np.float16)
            constant = self._onnx.numpy_helper.from_array(half, self._casts[name])
            self._graph.initializer.append(constant)
        else:
            yield self._onnx.helper.make_node("Cast", [name], [self._casts[name]], to=dtype)


def to_int8(model_bytes: bytes, inputs: Iterable[Mapping[str, np.ndarray]]) -> bytes:
    """Quantizes the convolutions in an ONNX model to int8.

    Weights have a scale per channel. Activations are uint8; their ranges are those of the inputs.
    The first convolution, those of the gates and the last ones before the outputs stay float32.

    Args:
      model_bytes: the model in float32.
      inputs: inputs by name, for calibration.
    """
    import onnx
    from onnxruntime import quantization

    model = onnx.load_from_string(model_bytes)
    metadata = {x.key: x.value for x in model.metadata_props}
    temporary = tempfile.TemporaryDirectory()
    with temporary as folder, name_in_errors(Path(folder)), _without_log():
        source, simple, target = (str(Path(folder) / f"{n}.onnx") for n in range(3))
        onnx.save(model, source)
        # Fuses and reorders operations, so that convolutions meet their activations.
        quantization.quant_pre_process(
            source, simple, skip_symbolic_shape=True, skip_onnx_shape=True
        )
        model = onnx.load(simple)
        _name_nodes(model)
        onnx.save(model, simple)
        quantization.quantize_static(
            simple,
            target,
            _Reader(inputs),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTIZED_KINDS),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=_kept_nodes(model),
            calibration_providers=["CPUExecutionProvider"],
        )
        model = onnx.load(target)
    # The quantizer orders nodes without the values that the branches of an `If` use.
    Graph(model).sort()
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class _Reader:
    """Yields calibration inputs one at a time, as `CalibrationDataReader`."""

    def __init__(self, inputs: Iterable[Mapping[str, np.ndarray]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._inputs, None)
        return None if batch is None else dict(batch)


def _name_nodes(model: Any) -> None:
    for n, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{n}"


def _network_values(model: Any) -> set[str]:
    """Returns the values that the network computes from its input, outputs of its nodes.

    These are computed from the outputs of convolutions, other than by their shape, and the last
    convolutions depend on them.
    """
    values: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Conv" or (node.op_type != "Shape" and values & set(node.input)):
            values |= set(node.output)
    needed: set[str] = set()
    for node in reversed(model.graph.node):
        is_conv = node.op_type == "Conv"
        if is_conv or needed & set(node.output):
            needed |= set(node.input) | (set(node.output) if is_conv else set())
    return values & needed


def _kept_nodes(model: Any) -> list[str]:
    """Returns the names of the nodes that stay float32."""
    nodes = model.graph.node
    convs = [x for x in nodes if x.op_type == "Conv"]
    graph, network = Graph(model), _network_values(model)
    kept = [convs[0].name, *_gate_nodes(graph, network)]
    kept += [x.name for x in nodes if x.op_type != "Conv" and not network & set(x.output)]
    for conv in convs:
        following = [conv]
        for _ in range(_MAX_FOLLOWING):
            if len(following) == 1:
                following = graph.consumers.get(following[0].output[0], [])
        if not (network & {x for node in following for x in node.output}):
            kept.append(conv.name)
    return kept


def _gate_nodes(graph: Graph, network: set[str]) -> list[str]:
    """Returns the names of the nodes from the 1x1 convolution of each gate to its sigmoid."""
    names = []
    for node in [x for x in graph.graph.node if x.op_type == "Sigmoid"]:
        while node.op_type not in ("Conv", "Einsum", "MatMul"):
            inputs = [name for name in node.input if name in network]
            if len(inputs) != 1:
                break
            node = graph.producers[inputs[0]]
            names.append(node.name)
    return names


@contextmanager
def _without_log() -> Iterator[None]:
    """Silences the root logger, to which onnxruntime writes hints, and errors with tracebacks."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """Returns at most `count` of the values, evenly spaced."""
    if len(values) <= count:
        return list(values)
    return [values[n * len(values) // count] for n in range(count)]
