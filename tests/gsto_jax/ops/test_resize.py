from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.export import export, symbolic_shape

from gsto_jax import UserError, resize
from gsto_jax.ops.packing import pack

# As one program: without jit each operation is compiled by itself.
compiled_resize = jax.jit(
    resize, static_argnames=("size", "method", "align_corners", "implementation", "differentiable")
)
METHODS = (("bilinear", False), ("bilinear", True), ("nearest", False))


def nhwc(array, dtype):
    return array.transpose(0, 2, 3, 1).astype(dtype)


def cases(arrays):
    for name in arrays:
        source, *size, case = name.split("/")
        if case in ("align_false", "align_true"):
            yield source, tuple(map(int, size[0].split("x"))), case == "align_true", name


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [("float64", 1e-6), pytest.param("float32", 2e-6, marks=pytest.mark.slow)],
)
def test_bilinear_equals_reference(golden, x64, dtype, bound):
    arrays = golden("f")
    checked = 0
    for source, size, align_corners, name in cases(arrays):
        x = nhwc(arrays[f"{source}/input"], dtype)
        actual = compiled_resize(x, size, "bilinear", align_corners)
        reference = nhwc(arrays[name], np.float64)
        assert actual.dtype == dtype
        error = np.abs(np.asarray(actual) - reference).max() / np.abs(reference).max()
        assert error < bound, f"{name}: {error}"
        checked += 1
    assert checked >= 8


def test_nearest_equals_reference(golden):
    arrays = golden("f")
    x = nhwc(arrays["s0/input"], np.float32)
    for factor in (2, 4, 8):
        size = (factor * x.shape[1], factor * x.shape[2])
        expected = nhwc(arrays[f"s0/nearest_x{factor}"], np.float32)
        np.testing.assert_array_equal(compiled_resize(x, size, "nearest"), expected)


def test_nearest_at_odd_ratios_takes_the_floor():
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    y = np.asarray(compiled_resize(x, (2, 7), "nearest"))
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 0, 1, 1, 2, 2, 3]] * 2)


@pytest.mark.parametrize("align_corners", [False, True])
def test_gradient_equals_reference(golden, x64, align_corners):
    arrays = golden("f")
    x = nhwc(arrays["s0/input"], np.float64)
    cotangent = nhwc(arrays["s0/13x9/cotangent"], np.float64)

    @jax.jit
    def pull(x, cotangent):
        return jax.vjp(lambda x: resize(x, (13, 9), "bilinear", align_corners), x)[1](cotangent)

    (actual,) = pull(x, cotangent)
    expected = nhwc(arrays[f"s0/13x9/grad_align_{str(align_corners).lower()}"], np.float64)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("source", "factors"), [((5, 7), (4, 4)), ((3, 4), (2, 8)), ((1, 6), (3, 1)), ((1, 1), (2, 5))]
)
def test_upsampling_by_integers_on_cpus(x64, source, factors):
    """Covers the custom gradient, and that an infinite pixel affects its neighbors only."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *source, 3))
    size = tuple(side * factor for side, factor in zip(source, factors, strict=True))
    by_neighbors = partial(compiled_resize, implementation="neighbors")
    if source[0] > 1:
        with pytest.raises(UserError, match="integer ratios"):
            by_neighbors(x, (size[0] + 1, size[1]))
    cotangent = rng.standard_normal((2, *size, 3))

    def both(x, cotangent):
        for f in (
            lambda x: by_neighbors(x, size),
            lambda x: jax.image.resize(x, cotangent.shape, "bilinear", antialias=False),
        ):
            y, pull = jax.vjp(f, x)
            yield y, pull(cotangent)[0]

    actual, expected = jax.jit(lambda *args: list(both(*args)))(x, cotangent)
    np.testing.assert_allclose(actual[0], expected[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(actual[1], expected[1], rtol=0, atol=1e-12)
    if factors == (4, 4):
        x[:, 0, 0] = np.inf
        actual = np.asarray(by_neighbors(x, size))
        assert not np.isnan(actual).any()
        assert np.isfinite(actual[:, 6:]).all()


def test_align_corners_of_single_rows_and_columns():
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)

    def rows(size):
        return np.asarray(compiled_resize(x, size, "bilinear", True))[0, :, :, 0]

    np.testing.assert_array_equal(rows((3, 4)), np.tile(np.arange(4.0), (3, 1)))
    np.testing.assert_array_equal(rows((1, 1)), [[0]])
    np.testing.assert_allclose(rows((1, 7)), [np.arange(7) / 2])


def test_same_size_and_unknown_method():
    x = jnp.ones((1, 3, 5, 2))
    assert resize(x, (3, 5)) is x
    with pytest.raises(ValueError, match="method must be"):
        resize(x, (6, 10), "cubic")


@pytest.mark.parametrize(("method", "align_corners"), METHODS)
def test_symbolic_sizes(method, align_corners):
    """One program for all sizes, including sides of one pixel."""
    n, m, k, j = symbolic_shape("n, m, k, j")

    def to_size_of(x, like):
        return resize(x, like.shape, method, align_corners)

    specs = jax.ShapeDtypeStruct((1, n, m, 2), "float32"), jax.ShapeDtypeStruct((k, j), "int8")
    program = export(jax.jit(to_size_of))(*specs)
    for source, target in (((3, 5), (7, 9)), ((1, 4), (5, 4)), ((4, 1), (1, 1)), ((6, 2), (12, 9))):
        x = np.random.default_rng(0).standard_normal((1, *source, 2)).astype(np.float32)
        actual = program.call(x, np.zeros(target, np.int8))
        expected = compiled_resize(jnp.asarray(x), target, method, align_corners)
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=1e-6, err_msg=f"{source} {target}"
        )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("source", "target"), [((5, 7), (19, 26)), ((1, 4), (3, 16)), ((6, 5), (1, 5))]
)
def test_upsampling_by_taps_is_the_same(source, target, align_corners):
    x = np.random.default_rng(0).normal(size=(2, *source, 3)).astype(np.float32)
    expected = compiled_resize(x, target, "bilinear", align_corners)
    actual = compiled_resize(x, target, "bilinear", align_corners, implementation="taps")
    np.testing.assert_allclose(actual, expected, atol=2e-6)
    default = compiled_resize(x, target, "bilinear", align_corners, differentiable=False)
    np.testing.assert_array_equal(default, actual)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_upsampling_by_a_transposed_convolution_is_the_same(method):
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    expected = compiled_resize(x, (20, 24), method, implementation="xla")
    actual = compiled_resize(x, (20, 24), method, implementation="transposed_conv")
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_unavailable_implementation():
    x = jnp.ones((1, 4, 4, 2))
    for name, reason, size, kwargs in (
        ("neighbors", "align_corners", (8, 8), {"align_corners": True}),
        ("taps", "bilinear", (8, 8), {"method": "nearest"}),
        ("transposed_conv", "power of two", (12, 12), {}),
    ):
        with pytest.raises(UserError, match=f"{name}.*{reason}"):
            resize(x, size, implementation=name, **kwargs)
    with pytest.raises(UserError, match=r"transposed_conv.*power of two"):
        resize(pack(x, {4: 2, 12: 2}), (12, 12))
    with pytest.raises(UserError, match="one of xla, neighbors"):
        resize(x, (8, 8), implementation="fast")
