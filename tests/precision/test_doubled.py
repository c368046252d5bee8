"""Functions in double precision with the operations that single precision would run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuron_mech.precision import doubled


def loop(x):
    return jax.lax.scan(lambda c, t: (jnp.tanh(c * t), c.sum()), x[0], x)


def cast(x):
    return x.astype(jnp.bfloat16).sum(0).astype(jnp.float32) / 3


def branches(x):
    return jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x)


def until(x):
    return jax.lax.while_loop(lambda x: x.sum() < 40, lambda x: x * 1.5 + 0.25, jnp.abs(x))


def again(x):
    return jax.grad(lambda x: jax.checkpoint(jax.nn.relu)(x @ x.T).sum())(x)


@pytest.mark.parametrize("function", [loop, cast, branches, until, again, jax.nn.softmax, jax.nn.gelu])
def test_it_is_the_function_in_double_precision(function, lenient):
    x = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    run = doubled(function, x)
    with jax.enable_x64(True):
        found = jax.jit(run)(np.asarray(x))
        plain = {cast: lambda x: x.sum(0) / 3}.get(function, function)
        expected = jax.jit(plain)(np.asarray(x, np.float64))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert one.dtype == jnp.float64
            # Numbers written in the function are float32's: 1.5e-8 of themselves.
            np.testing.assert_allclose(one, other, rtol=1e-7 if function is jax.nn.gelu else 1e-12)


def test_what_it_draws_at_random_is_the_same():
    def noise(key):
        return jax.random.normal(key, (1000,)), jax.random.bernoulli(key, 0.3, (1000,)).astype(jnp.float32)

    key = jax.random.key(3)
    single, run = jax.jit(noise)(key), doubled(noise, key)
    with jax.enable_x64(True):
        double = jax.jit(run)(key)
    np.testing.assert_allclose(double[0], single[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(double[1], single[1])
    assert double[0].dtype == jnp.float64
