"""ONNX export with jax2onnx (extra `onnx`)."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.extend.core import Jaxpr, Literal

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.files import to_json
from gsto_jax.predict import onnx_nodes
from gsto_jax.predict.class_program import class_source
from gsto_jax.predict.classification import ClassPredictor
from gsto_jax.predict.description import OPSET, ExportablePredictor
from gsto_jax.predict.onnx_graph import simplify
from gsto_jax.predict.pose import PosePredictor
from gsto_jax.predict.pose_program import pose_source
from gsto_jax.predict.program_source import ProgramSource
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.predict.single_pass import segmentation_source
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import TrainedModel
from gsto_jax.types import Size

_PREDICTORS: Mapping[str, type[ExportablePredictor]] = {
    "segmentation": Predictor,
    "pose": PosePredictor,
    "classification": ClassPredictor,
}


def program_source(predictor: ExportablePredictor) -> ProgramSource:
    """Returns the function to export."""
    if isinstance(predictor, ClassPredictor):
        return class_source(predictor)
    if isinstance(predictor, PosePredictor):
        return pose_source(predictor)
    return segmentation_source(predictor)


def onnx_bytes(
    predictor: ExportablePredictor, size: Size | None, description: Mapping[str, Any]
) -> bytes:
    """Returns the ONNX file of a network.

    Args:
      predictor: predictor of the checkpoint.
      size: (h, w) of the images; None for any size.
      description: stored in the metadata of the file as JSON, under "description".
    """
    trained = predictor.trained
    # A subprocess, since jax2onnx patches JAX for good. Its arguments can be pickled.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(
            _convert,
            variables=jax.tree.map(np.asarray, trained.variables),
            checkpoint=trained.path,
            config=trained.config,
            options={
                field.name: getattr(predictor, field.name)
                for field in fields(predictor)
                if field.name != "trained"
            },
            size=size,
            description=to_json(description),
        ).result()


def _convert(
    variables: Any,
    checkpoint: Path,
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    size: Size | None,
    description: str,
) -> bytes:
    jax.config.update("jax_platforms", "cpu")
    mesh = make_mesh(jax.local_devices()[:1])
    trained = TrainedModel(task_from_config(config), variables, mesh, checkpoint, config)
    predictor = _PREDICTORS[config["task"]](trained, **options)
    model = onnx_model(program_source(predictor), size)
    import onnx

    onnx.helper.set_model_props(model, {"description": description})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def onnx_model(source: ProgramSource, size: Size | None) -> Any:
    """Converts a function to an ONNX model; jax2onnx patches JAX.

    Args:
      source: the function.
      size: (h, w) of its image; None for any size.
    """
    specs = source.tracing_specs(size)

    def outputs_of(*inputs: Array) -> tuple[Array, ...]:
        outputs = source.call(*inputs)
        return tuple(outputs[name] for name in source.outputs)

    # Traced before jax2onnx patches JAX functions, which then reject symbolic sizes.
    closed = jax.make_jaxpr(outputs_of)(*specs)
    # jax2onnx reports plugins of other libraries that it cannot load.
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with warnings.catch_warnings(action="ignore"):
        from jax2onnx import to_onnx

        onnx_nodes.register()
        model = to_onnx(
            lambda *inputs: tuple(_eval_inlined(closed.jaxpr, closed.consts, inputs, {})),
            specs,
            model_name="gsto_jax",
            opset=OPSET,
            input_names=list(source.inputs),
            output_names=list(source.outputs),
        )
    # Some shapes that jax2onnx records of intermediate values are wrong; runtimes infer them.
    del model.graph.value_info[:]
    simplify(model)
    return model


def _stack(*arrays: Array, axis: int) -> Array:
    return jax.lax.concatenate([jax.lax.expand_dims(x, [axis]) for x in arrays], axis)


def _remainder(x: Array, y: Array) -> Array:
    assert jnp.issubdtype(x.dtype, jnp.integer)
    return jax.lax.sub(x, jax.lax.mul(y, jax.lax.div(x, y)))


def _pad(x: Array, value: Array, padding_config: Sequence[tuple[int, int, int]]) -> Array:
    for axis, (low, high, interior) in enumerate(padding_config):
        assert min(low, high) >= 0 == interior
        parts = [x]
        for place, width in ((0, low), (1, high)):
            if width:
                shape = (*x.shape[:axis], width, *x.shape[axis + 1 :])
                parts.insert(place * len(parts), jax.lax.broadcast_in_dim(value, shape, ()))
        x = jax.lax.concatenate(parts, axis) if len(parts) > 1 else x
    return x


def _dot_general(x: Array, y: Array, **params: Any) -> Array:
    """Writes the product of a map `b h w c` and a constant matrix as a 1x1 convolution."""
    contract_channels = params["dimension_numbers"] == (((3,), (0,)), ((), ()))
    if not contract_channels or x.ndim != 4 or y.ndim != 2 or isinstance(y, Tracer):
        return jax.lax.dot_general_p.bind(x, y, **params)
    kernel: Any = np.asarray(y)[None, None]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


_REWRITES = {"stack": _stack, "rem": _remainder, "pad": _pad, "dot_general": _dot_general}
"""Primitives that jax2onnx cannot convert, not at free sizes, or only to slow nodes, by others."""


def _eval_inlined(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    args: Sequence[Any],
    cache: dict[Any, tuple[list[Any], list[Any]]],
) -> list[Any]:
    """Evaluates a jaxpr with all calls inlined and the default platform selected.

    The remaining primitives have ONNX forms. Those of constants are computed here. `cache` removes
    common subexpressions, such as the weights of repeated resizes.
    """
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, args, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    def key_of(atom: Any) -> Any:
        return str(atom) if isinstance(atom, Literal) else id(values[atom])

    for eqn in jaxpr.eqns:
        inputs, primitive, params = list(map(read, eqn.invars)), eqn.primitive, eqn.params
        if primitive.name == "platform_index":
            outputs = [params["platforms"].index(None)]
        elif primitive.name == "cond" and isinstance(inputs[0], int):
            branch = params["branches"][inputs[0]]
            outputs = _eval_inlined(branch.jaxpr, branch.consts, inputs[1:], cache)
        elif onnx_nodes.has_nodes(name := params.get("name", primitive.name), eqn):
            outputs = [onnx_nodes.bind(name, inputs, eqn.outvars[0].aval)]
        elif inner := params.get("jaxpr") or params.get("call_jaxpr"):
            outputs = _eval_inlined(inner.jaxpr, inner.consts, inputs, cache)
        else:
            key = (primitive, str(params), *map(key_of, eqn.invars))
            if key not in cache:
                bind: Any = _REWRITES.get(primitive.name, primitive.bind)
                with jax.ensure_compile_time_eval() if _is_constant(eqn, inputs) else nullcontext():
                    result = bind(*inputs, **params)
                # With the inputs, whose ids are part of the key.
                cache[key] = inputs, result if primitive.multiple_results else [result]
            outputs = cache[key][1]
        values |= zip(eqn.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _is_constant(eqn: Any, inputs: Sequence[Any]) -> bool:
    lengths = [length for output in eqn.outvars for length in output.aval.shape]
    return (
        bool(inputs)
        and not any(isinstance(x, Tracer) for x in inputs)
        and all(isinstance(length, int) for length in lengths)
    )
