"""ONNX export with jax2onnx (extra `onnx`)."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.export import symbolic_shape
from jax.extend.core import Jaxpr, Literal

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.files import to_json
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.predict.single_pass import make_program
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import TrainedModel
from gsto_jax.segmentation.protocol import EvalProtocol
from gsto_jax.types import Size

_OPSET = 21


def onnx_bytes(predictor: Predictor, size: Size | None, description: Mapping[str, Any]) -> bytes:
    """Returns the ONNX file of a network.

    Args:
      predictor: predictor of the checkpoint.
      size: (h, w) of the images; None for any size.
      description: stored in the metadata of the file as JSON, under "description".
    """
    # A subprocess, since jax2onnx patches JAX for good. Its arguments can be pickled.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(
            _convert,
            variables=jax.tree.map(np.asarray, predictor.trained.variables),
            checkpoint=predictor.checkpoint,
            config=predictor.config,
            protocol=predictor.protocol,
            long_side=predictor.long_side,
            size=size,
            description=to_json(description),
        ).result()


def _convert(
    variables: Any,
    checkpoint: Path,
    config: Mapping[str, Any],
    protocol: EvalProtocol,
    long_side: int,
    size: Size | None,
    description: str,
) -> bytes:
    jax.config.update("jax_platforms", "cpu")
    mesh = make_mesh(jax.local_devices()[:1])
    trained = TrainedModel(task_from_config(config), variables, mesh, checkpoint, config)
    program = make_program(Predictor(trained, protocol, long_side))
    model = onnx_model(program, size, trained.task.in_channels)
    import onnx

    onnx.helper.set_model_props(model, {"description": description})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def onnx_model(
    program: Callable[[Array], dict[str, Array]], size: Size | None, channels: int = 3
) -> Any:
    """Converts a function of images `b h w c` uint8 to an ONNX model; jax2onnx patches JAX."""
    sides = "h, w" if size is None else f"{size[0]}, {size[1]}"
    shape = symbolic_shape(f"b, {sides}, {channels}")
    spec = jax.ShapeDtypeStruct(shape, jnp.uint8)
    # Traced before jax2onnx patches JAX functions, which then reject symbolic sizes.
    closed = jax.make_jaxpr(lambda images: tuple(program(images).values()))(spec)
    # jax2onnx reports plugins of other libraries that it cannot load.
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with warnings.catch_warnings(action="ignore"):
        from jax2onnx import to_onnx

        model = to_onnx(
            lambda images: tuple(_eval_inlined(closed.jaxpr, closed.consts, [images], {})),
            [spec],
            model_name="gsto_jax",
            opset=_OPSET,
            input_names=["image"],
            output_names=["labels", "logits"],
        )
    # Some shapes that jax2onnx records of intermediate values are wrong; runtimes infer them.
    del model.graph.value_info[:]
    return model


def _eval_inlined(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], cache: dict[Any, list[Any]]
) -> list[Any]:
    """Evaluates a jaxpr with all calls inlined and the default platform selected.

    The remaining primitives have ONNX forms. `cache` removes common subexpressions, such as the
    weights of repeated resizes.
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
        elif inner := params.get("jaxpr") or params.get("call_jaxpr"):
            outputs = _eval_inlined(inner.jaxpr, inner.consts, inputs, cache)
        else:
            key = (primitive, str(params), *map(key_of, eqn.invars))
            if key not in cache:
                result = primitive.bind(*inputs, **params)
                cache[key] = result if primitive.multiple_results else [result]
            outputs = cache[key]
        values |= zip(eqn.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]
