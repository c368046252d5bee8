"""What enters or leaves a site is replaced, and the rest of the network runs on from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drawn import normal
from neuron_mech import taps
from neuron_mech.taps import SiteError
from neuron_mech.training.models import MLP
from stock_models import StockCNN, Wrapped, batch, initialised


def test_replacing_pre_activations_is_what_the_suffix_computes_from_them():
    model = MLP(neurons=16)
    x, _ = batch(4, 8, 8, 1)
    variables = initialised(model, x)
    other = normal(3, 4, 16)
    out = jax.jit(taps.edited(model, pre={"dense2": lambda _: other}))(variables, x)
    by_hand = np.maximum(other, 0) @ np.asarray(variables["params"]["logits"]["kernel"])
    np.testing.assert_allclose(out, by_hand, atol=1e-5)


def test_a_cached_value_makes_the_compiler_drop_the_whole_prefix():
    model = StockCNN()
    x, _ = batch(4, 8, 8, 1)
    variables = initialised(model, x)

    def convolutions(run):
        return jax.jit(run).lower(variables, x).compile().as_text().count("convolution(")

    cached = jnp.asarray(np.ones((4, 4, 4, 6), np.float32))
    full = convolutions(lambda v, x: model.apply(v, x))
    cut = convolutions(lambda v, x: taps.edited(model, pre={"Conv_1": lambda _: cached})(v, x))
    assert full > 0
    assert cut == 0


def test_vmap_over_edits_gives_each_edits_own_output():
    model = MLP(neurons=16)
    x, _ = batch(4, 8, 8, 1)
    variables = initialised(model, x)

    @jax.jit
    def cut(threshold):
        return taps.edited(model, pre={"dense1": lambda z: jnp.where(z > threshold, 1.0, 0.0)})(variables, x)

    thresholds = np.asarray([-0.5, 0.0, 0.5], np.float32)
    together = np.asarray(jax.jit(jax.vmap(cut))(thresholds))
    for i in range(3):
        np.testing.assert_allclose(together[i], cut(thresholds[i]), atol=1e-6)


def test_edits_are_not_fooled_by_a_function_compiled_before():
    model = MLP(neurons=16)
    x, _ = batch(4, 8, 8, 1)
    variables = initialised(model, x)
    compiled = jax.jit(model.apply)
    compiled(variables, x)
    with pytest.raises(TypeError, match=r"flax.linen.*Module"):
        taps.edited(compiled, pre={"dense1": jnp.zeros_like})
    # The same module, applied and compiled before, is edited all the same.
    edited = jax.jit(taps.edited(model, pre={"dense1": jnp.zeros_like}))
    assert not np.allclose(edited(variables, x), compiled(variables, x))


@pytest.mark.parametrize("wrap", ["jit", "remat"])
def test_a_compiled_submodule_is_edited_anew_each_time(wrap):
    model = Wrapped(wrap)
    x, _ = batch(4, 6)
    variables = initialised(model, x)
    plain = model.apply(variables, x)
    for scale in (0.0, 2.0):
        out = taps.edited(model, pre={"layers/neurons": lambda z, s=scale: z * s})(variables, x)
        bias = np.asarray(variables["params"]["logits"]["bias"])
        np.testing.assert_allclose(out, (np.asarray(plain) - bias) * scale + bias, atol=1e-5)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"pre": {"dense7": jnp.zeros_like}}, "dense7.*no such site"),
        ({"pre": {"dense1": lambda z: z[:1]}}, "must keep shape and dtype"),
        ({"post": {"dense1": lambda a: a.astype(jnp.bfloat16)}}, "must keep shape and dtype"),
    ],
)
def test_an_edit_that_cannot_be_made_is_refused(edits, message):
    model = MLP()
    x, _ = batch(4, 8, 8, 1)
    with pytest.raises(SiteError, match=message):
        jax.eval_shape(taps.edited(model, **edits), initialised(model, x), x)
