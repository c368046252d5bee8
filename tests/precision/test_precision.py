"""Products to float32's precision on any device: their parts, passes and places, against float64 and JAX's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import neuron_mech
from drawn import started
from lowering import inexact
from neuron_mech import precision
from neuron_mech.precision import splitting
from neuron_mech.precision.rewriting import PRODUCTS, programs


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# Parts of an operand


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_parts_are_short_and_add_up_to_twenty_one_bits(scale):
    value = normal(10_000) * scale
    high, low = (np.asarray(part, np.float64) for part in splitting.parts(value))
    value = np.asarray(value, np.float64)
    for part, bits in ((high, 10), (low, 11)):
        mantissa, _ = np.frexp(part)
        assert (mantissa * 2**bits == np.round(mantissa * 2**bits)).all()
    # The nearest of ten bits is off by 2^-10 at most, and the nearest of eleven bits of that by 2^-11 of it.
    assert np.abs(value - high).max() <= 2.0**-10 * np.abs(value).max()
    assert (np.abs(value - high - low) <= 2.0**-21 * np.abs(value)).all()


def test_what_is_not_finite_stays_so_and_spoils_nothing_else():
    high, low = splitting.parts(jnp.asarray([jnp.inf, -jnp.inf, jnp.nan, 3.4028e38, 1.0]))
    assert np.isinf(high[np.array([0, 1, 3])]).all()
    assert np.isnan(high[2])
    np.testing.assert_array_equal(low, 0.0)


# The passes, with operands as short as the hardware's


def errors(operation, *operands):
    """{way: relative error against float64} of an operation whose operands are rounded as a device rounds them."""
    with jax.enable_x64(True):
        true = np.asarray(jax.jit(operation)(*(np.asarray(x, np.float64) for x in operands)))
    ways = {
        "tf32": precision.imitated(precision.TF32),
        "bfloat16": precision.imitated(precision.BFLOAT16),
        "three": precision.imitated(precision.TF32, passes=3),
    }

    @jax.jit
    def every_way(*operands):
        rewritten = {name: precision.rewritten(operation, way)(*operands) for name, way in ways.items()}
        return rewritten | {"float32": operation(*operands)}

    found = every_way(*operands)
    scale = np.sqrt((true**2).mean())
    return {
        name: np.sqrt(((np.asarray(value, np.float64) - true) ** 2).mean()) / scale for name, value in found.items()
    }


def convolution(strides, dilation, input_dilation, groups):
    def run(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, strides, [(1, 2), (0, 1)], input_dilation, dilation, ("NHWC", "HWIO", "NHWC"), groups
        )

    return run, (normal(2, 9, 8, 64), normal(3, 2, 64 // groups, 32, seed=1))


OPERATIONS = {
    "matrix": (jnp.matmul, (normal(20, 700), normal(700, 30, seed=1))),
    "batches": (lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (normal(3, 5, 400), normal(3, 7, 400, seed=1))),
    "two axes": (lambda a, b: jnp.tensordot(a, b, 2), (normal(6, 30, 20), normal(30, 20, 5, seed=1))),
    "few terms": (jnp.matmul, (normal(20, 10), normal(10, 30, seed=1))),
    "convolution": convolution((1, 1), (1, 1), (1, 1), 1),
    "strided, dilated": convolution((2, 1), (1, 2), (1, 1), 1),
    "transposed": convolution((1, 1), (1, 1), (2, 3), 1),
    "groups": convolution((1, 1), (1, 1), (1, 1), 4),
    "depthwise": (convolution((1, 1), (1, 1), (1, 1), 64)[0], (normal(2, 9, 8, 64), normal(3, 2, 1, 64, seed=1))),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_three_short_products_are_a_float32_product_and_one_is_not(name):
    operation, operands = OPERATIONS[name]
    error = errors(operation, *operands)
    assert 1e-4 < error["tf32"] < 1e-3 < error["bfloat16"]
    assert error["three"] < 1.2e-6
    assert error["three"] < 8 * error["float32"]


def test_runs_have_every_term_once_and_none_is_long():
    operation, (x, kernel) = OPERATIONS["convolution"]
    wide, deep = np.tile(x, (1, 1, 1, 8)), np.tile(kernel, (1, 1, 8, 1))
    lengths = []

    def product(equation, as_it_is, left, right):
        runs = splitting.runs(equation, left, right)
        lengths.extend(a.shape[-1] * right.shape[0] * right.shape[1] for a, _ in runs)
        return sum(as_it_is(a, b) for a, b in runs)

    found, expected = jax.jit(lambda *of: (precision.rewritten(operation, product)(*of), operation(*of)))(wide, deep)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert len(lengths) == 3  # 3,072 terms
    assert max(lengths) <= splitting.RUN


# Convolutions as matrix products


@pytest.mark.parametrize("how", [precision.shifted, precision.unfolded])
@pytest.mark.parametrize("spec", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("CHWN", "IHWO", "HWNC")])
def test_a_convolution_is_a_sum_of_matrix_products(spec, how):
    sizes = {"N": 4, "C": 6, "H": 9, "W": 8}
    # Stride, dilation, the input's dilation, groups of features, groups of samples; the first is the plain one.
    options = [(1, 1, 1, 1, 1), (2, 2, 1, 1, 1), (1, 1, 2, 1, 1), (2, 1, 1, 2, 1), (1, 2, 2, 1, 2)]
    x, runs, kernels = normal(*(sizes[axis] for axis in spec[0])), [], []
    for stride, dilation, input_dilation, groups, batches in options:
        kernel = {"O": 8, "I": 6 // groups, "H": 3, "W": 2}
        kernels.append(normal(*(kernel[axis] for axis in spec[1])))
        given = (stride, 1), [(2, -1), (0, 3)], (input_dilation, 1), (dilation, 1), spec, groups, batches

        def run(x, k, given=given):
            return jax.lax.conv_general_dilated(x, k, *given)

        runs.append(run)
        made = [
            equation.primitive
            for equation in every(jax.make_jaxpr(precision.rewritten(run, how))(x, kernels[-1]).jaxpr)
        ]
        assert PRODUCTS[1] not in made
        one = how is precision.unfolded and groups == batches == 1
        assert made.count(PRODUCTS[0]) == (1 if one else 3 * 2)

    @jax.jit
    def both(x, kernels):
        each = zip(runs, kernels, strict=True)
        return [(precision.rewritten(run, how)(x, kernel), run(x, kernel)) for run, kernel in each]

    for found, expected in both(x, kernels):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def every(program):
    """All operations, those inside others too."""
    for equation in program.eqns:
        yield equation
        for inner in programs(equation):
            yield from every(inner)


# Rewriting


def nested(x):
    """Products in every kind of place that JAX has for them."""
    y = jax.lax.scan(lambda c, _: (nn.relu(c @ x) * 0.1, None), x, None, length=3)[0]
    y = jax.lax.fori_loop(0, x.shape[0], lambda _, c: jnp.tanh(c @ c), y)
    y = jax.lax.while_loop(lambda c: (c @ c).sum() < 3, lambda c: c @ c + 1, y)
    y = jax.lax.cond(y.sum() > 0, lambda v: v @ v, lambda v: v, y)
    y = jax.checkpoint(lambda v: jnp.sin(v @ v))(jax.jit(lambda v: v @ v)(y))
    return jax.vmap(lambda row: own_rule(row[None], y)[0])(y)


@jax.custom_vjp
def own_rule(x, y):
    """A product with a derivative of its own."""
    return x @ y


own_rule.defvjp(lambda x, y: (x @ y, (x, y)), lambda kept, g: (2 * g @ kept[1].T, kept[0].T @ g))


def test_every_product_is_reached_wherever_it_is():
    seen = []

    def product(equation, as_it_is, left, right):
        seen.append(equation.primitive)
        return as_it_is(left, right)

    def nothing(equation, as_it_is, left, right):
        return jnp.zeros(equation.outvars[0].aval.shape)

    x = normal(4, 4)
    np.testing.assert_array_equal(jax.jit(precision.rewritten(nested, product))(x), jax.jit(nested)(x))
    assert len(seen) == 8
    program = jax.make_jaxpr(precision.rewritten(nested, nothing))(x)
    left = [equation for equation in every(program.jaxpr) if equation.primitive in PRODUCTS]
    assert not left


def test_exact_products_are_those_of_plain_float32_on_a_cpu_whatever_jax_is_told():
    x = normal(4, 4)
    expected = jax.jit(nested)(x)
    for said in (None, "bfloat16", "BF16_BF16_F32"):
        with jax.default_matmul_precision(said):
            found = jax.jit(precision.exact(nested))(x)
        np.testing.assert_array_equal(found, expected)


class Custom(nn.Module):
    """A layer of one's own, products by bare functions; with a precision that it says itself."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 16))
        x = nn.relu(nn.Dense(16, name="first", precision="default")(x) + jnp.einsum("bi,ij->bj", x, kernel))
        return nn.Dense(3, name="logits", precision="bfloat16")(x)


@pytest.mark.parametrize("said", [None, "default", "bfloat16"])
def test_own_recorders_ask_for_exact_products_on_every_platform(said):
    x, y = normal(6, 8), jnp.asarray(np.arange(6, dtype=np.int32) % 3)
    model = Custom()
    variables = started(model, 0, x)
    made = neuron_mech.plan(model, variables, x, y, recordings=1, mixing="alone")
    with jax.default_matmul_precision(said):
        programs = {
            "recorder": jax.jit(made.design.gradients).trace(variables, x, y),
            "signs": jax.jit(lambda v, x, y: neuron_mech.signs(model, v, x, y)).trace(variables, x, y),
        }
        fast = jax.jit(lambda v, x, y: neuron_mech.signs(model, v, x, y, precision="fast")).trace(variables, x, y)
        for platform in ("cuda", "tpu", "cpu"):
            for name, traced in programs.items():
                assert inexact(traced.lower(lowering_platforms=(platform,)).as_text(), platform) == [], name
            assert inexact(fast.lower(lowering_platforms=(platform,)).as_text(), platform)
