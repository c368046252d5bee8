"""NNX models, as Linen modules with the same sites."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuron_mech
from drawn import started_nnx
from neuron_mech import store
from neuron_mech.taps import SiteError, SiteWarning
from neuron_mech.taps.objectives import margin

pytestmark = pytest.mark.usefixtures("lenient")


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.up, self.down = nnx.Linear(width, 2 * width, rngs=rngs), nnx.Linear(2 * width, width, rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(width, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.norm(x + self.drop(self.down(nnx.gelu(self.up(x)))))


class Net(nnx.Module):
    def __init__(self, rngs, scanned=False):
        self.first, self.last = nnx.Linear(64, 8, rngs=rngs), nnx.Linear(8, 10, rngs=rngs)
        self.blocks, self.rematerialised = nnx.List([Block(8, rngs) for _ in range(2)]), scanned

    def __call__(self, x):
        x = self.first(x.reshape(len(x), -1))
        for block in self.blocks:
            x = nnx.remat(lambda b, x: b(x))(block, x) if self.rematerialised else block(x)
        return self.last(x)


def test_an_nnx_model_has_sites_like_any_other(digits, tmp_path):
    x, y = (np.asarray(of)[:200] for of in (digits.train.inputs, digits.train.labels))
    net = started_nnx(lambda: Net(nnx.Rngs(0)), 0)
    net.eval()
    linen, variables = neuron_mech.from_nnx(net)
    assert [*neuron_mech.sites(linen, variables, x)] == [
        *("first", "blocks/0/up", "blocks/0/down", "blocks/1/up", "blocks/1/down", "last")
    ]
    logits, values = jax.jit(lambda v: neuron_mech.read(linen, v, x, "blocks/*/up"))(variables)
    np.testing.assert_allclose(logits, nnx.jit(lambda net, x: net(x))(net, x), rtol=1e-6)
    first = x.reshape(len(x), -1) @ np.asarray(net.first.kernel[...]) + np.asarray(net.first.bias[...])
    up = net.blocks[0].up
    expected = first @ np.asarray(up.kernel[...]) + np.asarray(up.bias[...])
    np.testing.assert_allclose(values["blocks/0/up"], expected, rtol=1e-5, atol=1e-6)
    recorder = neuron_mech.recorder(linen, variables, x, y, "blocks/*/up", recordings=1).update(
        neuron_mech.variables(net)
    )
    # The bias's own gradient, sample by sample, by nothing but NNX.
    gradients = nnx.jit(lambda net, x, y: nnx.grad(lambda net: margin(net(x), y).sum())(net))
    averages = [np.nan_to_num(recorder.average_sign(f"blocks/{b}/up")) for b in range(2)]
    for i in range(5):
        gradient = gradients(net, x[i : i + 1], y[i : i + 1])
        for b, average in enumerate(averages):
            np.testing.assert_array_equal(average[i], np.sign(gradient["blocks"][b]["up"]["bias"][...]))
    store.write_dataset(tmp_path / "signs.nc", recorder.signs())
    found = store.read_dataset(tmp_path / "signs.nc")
    assert found.site.values.tolist() == list(dict.fromkeys(found.neuron_site.values)) == ["blocks/0/up", "blocks/1/up"]
    cut = jax.jit(neuron_mech.replace(linen, {"blocks/1/up": jnp.zeros_like}))(variables, x)
    assert np.abs(np.asarray(cut) - np.asarray(logits)).max() > 0


def test_what_an_nnx_model_cannot_do_is_said(digits):
    x, y = (np.asarray(of)[:200] for of in (digits.train.inputs, digits.train.labels))
    net = started_nnx(lambda: Net(nnx.Rngs(0)), 0)
    linen, variables = neuron_mech.from_nnx(net)
    with pytest.raises(ValueError, match=r"another sample's input changes.*eval\(\)"):
        neuron_mech.recorder(linen, variables, x, y, "*", recordings=1)


def test_layers_inside_an_nnx_transformation_are_sites_like_any_other(digits):
    x, y = (np.asarray(of)[:20] for of in (digits.train.inputs, digits.train.labels))
    nets = [started_nnx(lambda inside=inside: Net(nnx.Rngs(0), scanned=inside), 0) for inside in (False, True)]
    found = []
    for net in nets:
        net.eval()
        linen, variables = neuron_mech.from_nnx(net)
        signs = neuron_mech.signs(linen, variables, x, y)
        cut = jax.jit(neuron_mech.replace(linen, {"blocks/1/up": jnp.zeros_like}))(variables, x)
        found.append((signs, jax.jit(lambda v, linen=linen: neuron_mech.read(linen, v, x)[1])(variables), cut))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), *found)
    assert "blocks/1/up" in found[0][0]


def test_layers_inside_a_condition_or_an_endless_loop_of_nnx_are_refused_by_name_and_left_out_of_a_pattern(digits):
    class Chosen(nnx.Module):
        def __init__(self, how):
            self.block, self.out = Block(64, nnx.Rngs(0)), nnx.Linear(64, 10, rngs=nnx.Rngs(1))
            self.how = how

        def __call__(self, x):
            x = x.reshape(len(x), -1)
            if self.how == "cond":
                x = nnx.cond(x.sum() > 0, lambda block, x: block(x), lambda block, x: 2 * x, self.block, x)
            else:
                again = lambda state: (state[0], state[0](state[1]))  # noqa: E731
                _, x = nnx.while_loop(lambda state: jnp.abs(state[1]).max() < 9, again, (self.block, x))
            return self.out(x)

    x, y = (np.asarray(of)[:20] for of in (digits.train.inputs, digits.train.labels))
    for how in ("cond", "while"):
        net = started_nnx(lambda how=how: Chosen(how), 0)
        net.eval()
        linen, variables = neuron_mech.from_nnx(net)
        for ask in (neuron_mech.signs, lambda *given: neuron_mech.recorder(*given, recordings=1)):
            with pytest.raises(SiteError, match=rf"'block/up' is inside a {how}.*name one outside"):
                ask(linen, variables, x, y, "block/up")
        with pytest.warns(SiteWarning, match="left out: site 'block/up"):
            assert set(neuron_mech.read(linen, variables, x, "*")[1]) == {"out"}
