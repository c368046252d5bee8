"""Models of other people's making: sites, signs against a float64 per-sample loop, and against the parameters."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import neuron_mech
import own_models as theirs
from drawn import integers, normal, started
from neuron_mech import taps
from neuron_mech.taps.objectives import margin
from neuron_mech.training.models import Neurons
from written_out import away

pytestmark = pytest.mark.usefixtures("lenient")


@dataclass
class Case:
    """A model, what it is given, and where its neurons are."""

    model: nn.Module
    inputs: tuple[int, ...]
    names: Any
    found: tuple[str, ...]
    loss: Callable = margin
    kwargs: dict = field(default_factory=dict)

    @cached_property
    def data(self):
        """(variables, inputs, labels)."""
        if self.loss is theirs.next_token:
            x = y = integers(3, 0, 11, *self.inputs)
        else:
            x, y = normal(3, *self.inputs), integers(4, 0, 10, *self.inputs[:1])
        if self.loss is theirs.squared_error:
            x, y = {"left": x, "right": jnp.asarray(-2 * np.asarray(x))}, normal(5, self.inputs[0], 2)
        variables = started(self.model, 6, x, **self.kwargs)
        # Biases begin at zero; these do not, as after some training.
        params = jax.tree.map(lambda p: jnp.asarray(np.asarray(p) + 0.05 * away(p)), variables["params"])
        return {**{k: v for k, v in variables.items() if k != "intermediates"}, "params": params}, x, y

    @cached_property
    def exact(self):
        """{site: derivative of each sample's loss}, one sample after another, in float64."""
        with jax.enable_x64(True):
            v, x, y = double(self.data)
            sites = {n: s for n, s in taps.sites(self.model, v, x, **self.kwargs).items() if n in self.found}
            rows: dict[str, list] = {name: [] for name in self.found}
            of_one = one_by_one(self, sites)
            for i in range(taps.batch_size(x)):
                found = of_one(v, *jax.tree.map(lambda a, i=i: a[i : i + 1], (x, y)))
                for name in self.found:
                    assert found[name].dtype == jnp.float64
                    rows[name].append(np.asarray(found[name][0]))
            return {name: np.stack(values) for name, values in rows.items()}


IMAGES, VECTORS, TOKENS = (6, 16, 16, 1), (6, 7), (4, 8)
VALUE, HIDDEN = "block_0/MultiHeadDotProductAttention_0/value", "block_0/hidden"
CASES = {
    "convnet": Case(theirs.ConvNet(), IMAGES, ["Conv_*", "Dense_0"], ("Conv_0", "Conv_1", "Dense_0")),
    "resnet": Case(
        theirs.ResNet(),
        (4, 32, 32, 3),
        "ResidualBlock_*/Conv_1",
        ("ResidualBlock_0/Conv_1", "ResidualBlock_1/Conv_1"),
        kwargs={"train": False},
    ),
    # From the values back through the attention, where each position's derivative is of all later ones.
    "transformer": Case(theirs.Transformer(), TOKENS, ["*/value", "*/hidden"], (VALUE, HIDDEN), theirs.next_token),
    "remat": Case(theirs.Rematerialised(), VECTORS, "*layer*", ("layer_0", "layer_1")),
    "scan": Case(theirs.Scanned(), VECTORS, "layers/*", tuple(f"layers/dense@{i}" for i in range(3))),
    "scan of remat": Case(theirs.Scanned(True), VECTORS, "layers/*@1", ("layers/dense@1",)),
    "shared": Case(theirs.Shared(), VECTORS, "shared@*", tuple(f"shared@{i}" for i in range(3))),
    "regression": Case(theirs.Regression(), VECTORS, "hidden", ("hidden",), theirs.squared_error),
}
BIASES = {
    "convnet": {"Dense_0": ("Dense_0",), "Conv_1": ("Conv_1",)},
    "transformer": {VALUE: (VALUE,), HIDDEN: (HIDDEN,)},
    "remat": {"layer_0": ("layer_0",), "layer_1": ("layer_1",)},
    "shared": {"shared": ("shared@0", "shared@1", "shared@2")},
    "regression": {"hidden": ("hidden",)},
}


def double(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64 if jnp.issubdtype(a.dtype, jnp.floating) else a.dtype), tree)


def one_by_one(case, sites):
    """{site: derivatives} of a batch of one sample, compiled."""

    @jax.jit
    def of_one(variables, x, y):
        zeros = taps.zeros(sites, 1)
        return taps.activation_gradients(
            case.model, variables, x, y, zeros, {"": case.loss}, "pre_activation", **case.kwargs
        )[""]

    return of_one


@pytest.mark.parametrize("name", CASES)
def test_recorded_signs_are_those_of_a_loop_over_samples_in_double_precision(name):
    case = CASES[name]
    variables, x, y = case.data
    sites = neuron_mech.sites(case.model, variables, x, apply=case.kwargs)
    chunk = 4 if name == "regression" else len(y) // 2  # in chunks, and in one case with a smaller one at the end
    how = {"recordings": 2, "loss": case.loss, "audit": False, "chunk": chunk, "apply": case.kwargs}
    recorder = neuron_mech.recorder(case.model, variables, x, y, case.names, **how)
    assert tuple(recorder.counts()) == case.found
    once = recorder.update(variables)
    under_jit = jax.jit(neuron_mech.Recorder.update)(once, variables)
    recorder = once.update(variables)
    exact = case.exact
    for site, tally in recorder.counts().items():
        assert tally.positive.shape == (len(exact[site]), *sites[site].shape)
        certain = np.abs(exact[site]) > 1e-5 * np.abs(exact[site]).max()
        assert certain.mean() > 0.4
        lead = np.asarray(tally.positive) - np.asarray(tally.negative)
        np.testing.assert_array_equal(lead[certain], 2 * np.sign(exact[site][certain]))
        again = under_jit.counts()[site]
        for counted in ("positive", "negative", "trail"):
            one, other = (np.asarray(getattr(of, counted)) for of in (tally, again))
            assert (one == other)[certain].all()
        assert not np.any(tally.not_finite)


@pytest.mark.parametrize("name", BIASES)
def test_derivatives_summed_over_positions_and_uses_are_those_of_the_bias(name):
    """What no tap is needed for: a bias enters at every position and every use of its layer."""
    case = CASES[name]
    variables, x, y = case.data
    found = case.exact
    with jax.enable_x64(True):
        v, inputs, labels = double((variables, x, y))

        def loss(params, sample, label):
            return case.loss(case.model.apply({**v, "params": params}, sample, **case.kwargs), label).sum()

        gradient = jax.jit(jax.grad(loss))
        for i in range(taps.batch_size(inputs)):
            gradients = gradient(v["params"], *jax.tree.map(lambda a, i=i: a[i : i + 1], (inputs, labels)))
            for layer, sites in BIASES[name].items():
                node = gradients
                for part in layer.split("/"):
                    node = node[part]
                bias = np.asarray(node["bias"])
                total = sum(found[site][i].reshape(-1, *bias.shape).sum(0) for site in sites)
                np.testing.assert_allclose(total, bias, rtol=1e-8, atol=1e-12)


def test_layers_of_a_scan_have_their_own_slice_of_the_parameters_gradient():
    case = CASES["scan"]
    variables, x, y = case.data
    found = case.exact
    with jax.enable_x64(True):
        v, inputs, labels = double((variables, x, y))
        loss = lambda p: margin(case.model.apply({"params": p}, inputs), jnp.asarray(labels)).sum()  # noqa: E731
        total = jax.jit(jax.grad(loss))(v["params"])
        for i, site in enumerate(case.found):
            np.testing.assert_allclose(found[site].sum(0), total["layers"]["dense"]["bias"][i], rtol=1e-8)


def test_a_layer_of_a_scan_and_a_use_of_a_shared_layer_are_replaced_alone():
    for name, by_hand in (("scan", scanned_by_hand), ("shared", shared_by_hand)):
        case = CASES[name]
        variables, x, _ = case.data
        edit = lambda z: jnp.where(z > 0, 1.0, -1.0)  # noqa: E731
        for use, site in enumerate(case.found):
            replaced = neuron_mech.replace(case.model, {site: edit})
            np.testing.assert_allclose(
                jax.jit(replaced)(variables, x), by_hand(variables["params"], x, use, edit), rtol=1e-5, atol=1e-5
            )
            _, values = neuron_mech.read(case.model, variables, x, site)
            _, pre = by_hand(variables["params"], x, use, edit, read=True)
            np.testing.assert_allclose(values[site], pre, rtol=1e-5, atol=1e-5)


def dense(p, x):
    return x @ p["kernel"] + p["bias"].reshape(1, -1)


def by_hand_of(layers, first):
    def run(params, x, use, edit, read=False):
        x = dense(params[first], x)
        seen = None
        for i, layer in enumerate(layers(params)):
            z = dense(layer, x)
            if i == use:
                seen = z
            x = jnp.tanh(edit(z) if i == use else z)
        out = dense(params["Dense_1" if first == "Dense_0" else "Dense_0"], x)
        return (out, seen) if read else out

    return run


scanned_by_hand = by_hand_of(
    lambda p: [jax.tree.map(lambda a, i=i: a[i], p["layers"]["dense"]) for i in range(3)], "Dense_0"
)
shared_by_hand = by_hand_of(lambda p: [p["shared"]] * 3, "first")


def test_a_model_in_bfloat16_is_recorded_as_it_computes_and_audited_in_double():
    case = Case(
        theirs.Transformer(dtype=jnp.bfloat16), TOKENS, CASES["transformer"].names, (VALUE, HIDDEN), theirs.next_token
    )
    variables, x, y = case.data
    recorder = neuron_mech.recorder(case.model, variables, x, y, case.names, recordings=1, loss=case.loss, audit=False)
    recorder = recorder.update(variables)
    exact = CASES["transformer"].exact  # the same parameters in a model without bfloat16, in double precision
    health = recorder.audit(variables)
    of_one, tokens = one_by_one(case, recorder.design.sites), np.asarray(x)
    each = [of_one(variables, tokens[i : i + 1], tokens[i : i + 1]) for i in range(len(x))]
    for site, tally in recorder.counts().items():
        seen = np.asarray(tally.positive) - np.asarray(tally.negative)
        wrong = (seen * np.sign(exact[site]) < 0).sum() / (exact[site] != 0).sum()
        assert 0 < wrong < 0.2
        assert health[site].wrong == pytest.approx(wrong, abs=0.01)
        alone = np.sign(np.stack([np.asarray(of[site][0], np.float32) for of in each]))
        assert (alone == seen).mean() > 0.98  # rounding depends on how XLA fuses


def test_a_model_that_casts_by_itself_is_audited_like_any_other():
    class Casting(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(Neurons()(nn.Dense(8)(x).astype(jnp.bfloat16)).astype(jnp.float32))

    x, y = normal(0, 40, 7), jnp.asarray(np.zeros(40, np.int32))
    variables = started(Casting(), 1, x)
    health = neuron_mech.recorder(Casting(), variables, x, y, recordings=1, audit=False).audit(variables, 40)
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), variables["params"])
    hidden = np.maximum(np.asarray(x, np.float64) @ params["Dense_1"]["kernel"], 0)
    logits = hidden @ params["Dense_0"]["kernel"]
    slope = np.exp(logits) / np.exp(logits[:, 1:]).sum(1, keepdims=True)
    slope[:, 0] = -1
    exact = slope @ params["Dense_0"]["kernel"].T
    found = neuron_mech.gradients(Casting(), variables, x, y)["Neurons_0"]
    wrong = (np.sign(exact) * np.sign(np.asarray(found, np.float64)) < 0).mean()
    assert health["Neurons_0"].wrong == pytest.approx(wrong, abs=0.004)
    assert health["Neurons_0"].unresolved == 0


def test_batch_statistics_are_named_with_the_ways_out():
    case = CASES["resnet"]
    variables, x, y = case.data
    training = {"train": True, "mutable": ["batch_stats"]}
    common = (case.model, variables, x, y)
    with pytest.raises(
        ValueError, match=r"through bn_init \(BatchNorm\)\. .*running statistics.*alone.*batch.*do not mix"
    ):
        neuron_mech.recorder(*common, case.names, recordings=1, apply=training)
    neuron_mech.recorder(*common, case.names, recordings=1, mixing="alone", apply=training).update(variables)
    # In batch statistics, knowingly: the derivative of the batch's sum.
    known = neuron_mech.recorder(*common, case.names, recordings=1, mixing="batch", apply=training).update(variables)
    sites = known.design.sites

    @jax.jit
    def of_batch(variables, x, y):
        zeros = taps.zeros(sites, len(y))
        return taps.activation_gradients(case.model, variables, x, y, zeros, {"": margin}, "pre_activation", **training)

    found = of_batch(variables, x, y)
    for site, tally in known.counts().items():
        agreed = np.asarray(tally.positive) - np.asarray(tally.negative) == np.sign(found[""][site])
        assert agreed.mean() > 0.999
