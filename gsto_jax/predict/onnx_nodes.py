"""ONNX nodes for functions that jax2onnx would convert primitive by primitive (needs jax2onnx).

jax2onnx writes a resize as two matrix products, and indices computed from free sizes as dozens of
nodes. Runtimes are several times faster with `Resize`, `Slice` and `Pad`. They reject the max
pooling that it writes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive

from gsto_jax.predict.onnx_graph import SIZE_CONDITION

_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
_BOOL = 9  # onnx.TensorProto.BOOL


def bind(name: str, inputs: Sequence[Array], output: Any) -> Array:
    """Returns the output of a function of `FUNCTIONS`, as one operation to convert.

    Args:
      name: name of the function.
      inputs: its arguments.
      output: shape and dtype of its output.
    """
    result: Array = _PRIMITIVE.bind(*inputs, name=name, shape=output.shape, dtype=output.dtype)
    return result


def has_nodes(name: str, eqn: Any) -> bool:
    """Returns whether an equation of a function or primitive has nodes of its own.

    A resize needs constant ratios, and max pooling the windows of a ResNet's stem.
    """
    if name == "reduce_window_max":
        return bool(eqn.params == _STEM_WINDOWS)
    if name in FUNCTIONS and "resize" in name:
        return 0 not in _ratios(eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape)
    return name in FUNCTIONS


def register() -> None:
    """Registers the conversion with jax2onnx."""
    from jax2onnx.plugins.plugin_system import PrimitiveLeafPlugin, register_primitive

    @register_primitive(jaxpr_primitive=_PRIMITIVE.name)
    class FunctionPlugin(PrimitiveLeafPlugin):
        """Writes the nodes of a function."""

        def lower(self, ctx: Any, eqn: Any) -> None:
            (result,) = eqn.outvars
            inputs = [ctx.get_value_for_var(x, name_hint=ctx.fresh_name("x")) for x in eqn.invars]
            shapes = [x.aval.shape for x in (*eqn.invars, result)]
            output = FUNCTIONS[eqn.params["name"]](_Writer(ctx), *inputs, *shapes)
            ctx.bind_value_for_var(result, output)


_PRIMITIVE = Primitive("gsto_jax_function")
_PRIMITIVE.def_abstract_eval(lambda *_, name, shape, dtype: ShapedArray(shape, dtype))


class _Writer:
    """Adds nodes to the graph that jax2onnx builds."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def node(
        self,
        kind: str,
        *inputs: Any,
        like: Any,
        shape: Sequence[Any],
        name: str = "",
        **options: Any,
    ) -> Any:
        """Adds a node, whose output has the dtype of the value `like`, and returns its output."""
        import onnx_ir as ir

        names = [self._context.fresh_name(name or kind.lower())]
        output = getattr(self._context.builder, kind)(*inputs, _outputs=names, **options)
        output.type = ir.TensorType(like.dtype)
        output.shape = ir.Shape([side if isinstance(side, int) else str(side) for side in shape])
        return output

    def constant(self, values: Any) -> Any:
        """Returns a constant."""
        name = self._context.fresh_name("constant")
        return self._context.builder.add_initializer_from_array(name=name, array=values)

    def lengths(self, sides: Sequence[Any]) -> Any:
        """Returns lengths, which may be symbols, as an int64 vector."""
        if all(isinstance(side, int) for side in sides):
            return self.constant(np.array(sides, np.int64))
        return self._context.dim_expr_lowerer(list(sides))


def _resize(mode: str) -> Callable[..., Any]:
    """Returns the writer of a bilinear resize with a `coordinate_transformation_mode`."""

    def write(writer: _Writer, x: Any, shape: Sequence[Any], target: Sequence[Any]) -> Any:
        no_region = writer.constant(np.zeros(0, np.float32))
        scales = writer.constant(np.array([1, 1, *_ratios(shape, target)], np.float32))
        options = {"mode": "linear", "coordinate_transformation_mode": mode}
        return _channels_first(
            writer, "Resize", x, no_region, scales, shapes=(shape, target), **options
        )

    return write


def _channels_first(
    writer: _Writer,
    kind: str,
    x: Any,
    *inputs: Any,
    shapes: Sequence[Sequence[Any]],
    **options: Any,
) -> Any:
    """Adds a node for maps `b c h w` between transposes from and to `b h w c`, of these shapes."""
    before, after = ([sides[n] for n in _TO_NCHW] for sides in shapes)
    x = writer.node("Transpose", x, like=x, shape=before, perm=_TO_NCHW)
    x = writer.node(kind, x, *inputs, like=x, shape=after, **options)
    return writer.node("Transpose", x, like=x, shape=shapes[1], perm=_TO_NHWC)


def _ratios(shape: Sequence[Any], target: Sequence[Any]) -> list[int]:
    """Returns the ratios of height and width, small integers at any size, or 0."""
    pairs = zip(shape[1:3], target[1:3], strict=True)
    return [next((n for n in range(1, 33) if b == n * a), 0) for a, b in pairs]


def _crop_end(writer: _Writer, x: Any, shape: Sequence[Any], target: Sequence[Any]) -> Any:
    start, axes = (writer.constant(np.array(v, np.int64)) for v in ((0, 0), (1, 2)))
    end = writer.lengths(target[1:3])
    return writer.node("Slice", x, start, end, axes, like=x, shape=target)


def _pad_end(writer: _Writer, x: Any, shape: Sequence[Any], target: Sequence[Any]) -> Any:
    widths = [b - a for a, b in zip(shape, target, strict=True)]
    pads = writer.lengths([0] * len(shape) + widths)
    return writer.node("Pad", x, pads, like=x, shape=target, mode="edge")


def _choose_by_size(
    writer: _Writer,
    unchanged: Any,
    resized: Any,
    shape: Sequence[Any],
    _: Sequence[Any],
    target: Sequence[Any],
) -> Any:
    sizes = [writer.lengths(sides[1:3]) for sides in (shape, target)]
    differences = writer.node("Sub", *sizes, like=sizes[0], shape=(2,))
    differences = writer.node("Abs", differences, like=differences, shape=(2,))
    axes = writer.constant(np.array([0], np.int64))
    total = writer.node("ReduceSum", differences, axes, like=sizes[0], shape=(), keepdims=0)
    condition = writer.node("Cast", total, like=total, shape=(), to=_BOOL, name=SIZE_CONDITION)
    # `branch_on_size` changes this node.
    return writer.node("Where", condition, resized, unchanged, like=resized, shape=target)


def _stem_max_pool(writer: _Writer, x: Any, shape: Sequence[Any], target: Sequence[Any]) -> Any:
    options = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    return _channels_first(writer, "MaxPool", x, shapes=(shape, target), **options)


_STEM_WINDOWS = {
    "window_dimensions": (1, 3, 3, 1),
    "window_strides": (1, 2, 2, 1),
    "padding": ((0, 0), (1, 1), (1, 1), (0, 0)),
    "base_dilation": (1, 1, 1, 1),
    "window_dilation": (1, 1, 1, 1),
}

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "bilinear_resize": _resize("half_pixel"),
    "corner_aligned_resize": _resize("align_corners"),
    "crop_end": _crop_end,
    "pad_end": _pad_end,
    "choose_by_size": _choose_by_size,
    "reduce_window_max": _stem_max_pool,
}
"""Writers of nodes by the name of a jitted function or primitive of maps `b h w c`.

Called with the writer, the inputs, their shapes and that of the output.
"""
