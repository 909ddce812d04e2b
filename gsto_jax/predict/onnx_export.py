"""Networks as ONNX, by jax2onnx (extra `onnx`)."""

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.predict.single_pass import make_program
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import TrainedModel
from gsto_jax.segmentation.protocol import EvalProtocol
from gsto_jax.types import Size

_OPSET = 21
_PROPERTIES = ("classes", "palette", "mean", "std")


def onnx_bytes(predictor: Predictor, size: Size | None) -> bytes:
    """Returns `model.onnx` of a network, for images of a size (h, w), or of any."""
    # In a process of its own: jax2onnx leaves functions of its own in JAX. Devices and programs
    # cannot be sent there.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(
            _convert,
            variables=jax.tree.map(np.asarray, predictor.trained.variables),
            path=predictor.path,
            config=predictor.config,
            protocol=predictor.protocol,
            long_side=predictor.long_side,
            size=size,
        ).result()


def _convert(
    variables: Any,
    path: Path,
    config: Mapping[str, Any],
    protocol: EvalProtocol,
    long_side: int,
    size: Size | None,
) -> bytes:
    jax.config.update("jax_platforms", "cpu")
    mesh = make_mesh(jax.local_devices()[:1])
    trained = TrainedModel(task_from_config(config), variables, mesh, path, config)
    model = onnx_model(make_program(Predictor(trained, protocol, long_side)), size)
    import onnx

    data = {name: json.dumps(config["data"][name]) for name in _PROPERTIES}
    onnx.helper.set_model_props(model, data | {"step": path.name})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def onnx_model(program: Callable[[Array], dict[str, Array]], size: Size | None) -> Any:
    """Returns a program of images `b h w 3` uint8 as an ONNX model; leaves marks in JAX."""
    shape = symbolic_shape("b, h, w, 3" if size is None else f"b, {size[0]}, {size[1]}, 3")
    spec = jax.ShapeDtypeStruct(shape, jnp.uint8)
    # Traced here: jax2onnx puts functions of its own in place of some of JAX's while it traces, and
    # those take no symbolic sizes.
    closed = jax.make_jaxpr(lambda images: tuple(program(images).values()))(spec)
    with _quiet():
        from jax2onnx import to_onnx

        model = to_onnx(
            lambda images: tuple(_inlined(closed.jaxpr, closed.consts, [images], {})),
            [spec],
            model_name="gsto_jax",
            opset=_OPSET,
            input_names=["image"],
            output_names=["labels", "logits"],
        )
    # jax2onnx notes shapes of what lies between, some of them wrong; runtimes find their own.
    del model.graph.value_info[:]
    return model


def _inlined(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], done: dict[Any, list[Any]]
) -> list[Any]:
    """Evaluates a program, with all that it calls inlined, as for a device of no special kind.

    What is left are operations on arrays, which every exporter knows; what is computed again, such
    as the weights of a resampling between the same two sizes, is taken from `done`.
    """
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, args, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    def name_of(atom: Any) -> Any:
        return str(atom) if isinstance(atom, Literal) else id(values[atom])

    for eqn in jaxpr.eqns:
        inputs, primitive, params = list(map(read, eqn.invars)), eqn.primitive, eqn.params
        if primitive.name == "platform_index":
            outputs = [params["platforms"].index(None)]
        elif primitive.name == "cond" and isinstance(inputs[0], int):
            branch = params["branches"][inputs[0]]
            outputs = _inlined(branch.jaxpr, branch.consts, inputs[1:], done)
        elif inner := params.get("jaxpr") or params.get("call_jaxpr"):
            outputs = _inlined(inner.jaxpr, inner.consts, inputs, done)
        else:
            key = (primitive, str(params), *map(name_of, eqn.invars))
            if key not in done:
                result = primitive.bind(*inputs, **params)
                done[key] = result if primitive.multiple_results else [result]
            outputs = done[key]
        values |= zip(eqn.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops what jax2onnx says of operations that it cannot load, none of them ours."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
