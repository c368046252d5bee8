"""Noise, numbers that are none, and sites out of reach: each is right, or refused, or said."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import drawn
import neuron_mech
from classifiers import Logits, X, Y, asked, started
from neuron_mech import Inputs, SignHealthWarning
from neuron_mech.errors import InputError
from neuron_mech.taps import SiteError, SiteWarning
from written_out import normal

pytestmark = pytest.mark.usefixtures("lenient")


# --- Noise ------------------------------------------------------------------------------------------------------------


def test_every_sample_and_every_recording_has_noise_of_its_own():
    model, variables = Logits(), started(Logits())
    x, y = np.tile(np.asarray(X)[:1], (400, 1)), np.tile(np.asarray(Y)[:1], 400)  # one sample, many times
    apply = {"train": True, "rngs": {"dropout": jax.random.key(5)}}
    first = lambda out, y: out[:, 0]  # noqa: E731
    signs = neuron_mech.signs(model, variables, x, y, "drop", loss=first, apply=apply)["drop"]
    kept = (np.asarray(neuron_mech.gradients(model, variables, x, y, ":relu", apply=apply)[":relu"]) != 0).mean(0)
    assert len(np.unique(np.asarray(signs), axis=0)) == 1  # what comes after the mask knows nothing of it
    np.testing.assert_allclose(kept, 0.5, atol=0.12)  # five standard deviations
    recorder = neuron_mech.recorder(model, variables, x, y, ":relu", recordings=60, apply=apply, chunk=200)
    for _ in range(60):
        recorder = recorder.update(variables)
    counts = np.asarray(recorder.counts()[":relu"].recorded)
    assert (counts.min(), counts.max()) != (0, 60)
    assert abs(counts.mean() - 30) < 1
    assert abs(counts.std() - np.sqrt(60) / 2) < 0.4  # of independent draws
    # The audit has the same noise: nothing is wrong, nothing lost.
    health = recorder.audit(variables)[":relu"]
    assert health.wrong == 0
    assert health.zeroed == 0


def test_an_nnx_model_with_dropout_has_noise_of_its_own_too():
    class Net(nnx.Module):
        def __init__(self, rngs, given):
            self.hidden, self.out = nnx.Linear(7, 12, rngs=rngs), nnx.Linear(12, 3, rngs=rngs)
            self.drop = nnx.Dropout(0.5) if given else nnx.Dropout(0.5, rngs=rngs)

    class Held(Net):
        def __call__(self, x):
            return self.out(self.drop(nnx.relu(self.hidden(x))))

    class Given(Net):
        def __call__(self, x, *, rngs=None):
            return self.out(self.drop(nnx.relu(self.hidden(x)), rngs=rngs))

    x, y = np.tile(np.asarray(X)[:1], (400, 1)), np.tile(np.asarray(Y)[:1], 400)
    keys = {"rngs": {"dropout": jax.random.key(3)}}
    held, given = Held(nnx.Rngs(0), False), Given(nnx.Rngs(0), True)
    for net, apply in ((held, {}), (held, keys), (given, keys)):
        linen, variables = neuron_mech.from_nnx(net)
        found = neuron_mech.gradients(linen, variables, x, y, "drop:input", apply=apply)["drop:input"]
        np.testing.assert_allclose((np.asarray(found) != 0).mean(0), 0.5, atol=0.12)


# --- Numbers ----------------------------------------------------------------------------------------------------------


def rooted(outputs, labels):
    """Whose derivative is infinite where the output is zero, and no number below."""
    return jnp.sqrt(outputs[:, 0]) * (1.0 + labels)


def test_derivatives_that_are_not_finite_are_counted_and_said():
    model, variables = Logits(1), started(Logits(1))
    with pytest.raises(InputError, match=r"derivatives at 'hidden' are not finite"):
        neuron_mech.signs(model, variables, X, Y, "hidden", loss=rooted)
    assert not np.isfinite(neuron_mech.gradients(model, variables, X, Y, "hidden", loss=rooted)["hidden"]).all()
    with pytest.warns(SignHealthWarning, match="derivatives are not finite"):
        recorder = neuron_mech.recorder(model, variables, X, Y, "hidden", recordings=2, loss=rooted)
    recorder = recorder.update(variables)
    p = jax.tree.map(np.asarray, variables["params"])
    hidden = np.asarray(X) @ p["hidden"]["kernel"] + p["hidden"]["bias"]
    below = (np.maximum(hidden, 0) @ p["out"]["kernel"] + p["out"]["bias"] < 0)[:, 0]
    lost = (hidden > 0)[below].sum()  # a relu that is off passes nothing on
    assert 0 < below.sum() < 24
    assert recorder.not_finite() == {"hidden": lost}
    with pytest.warns(SignHealthWarning, match=f"{lost:,} derivatives of {below.sum()} samples"):
        recorder.constancy()


def test_derivatives_that_add_up_to_nothing_are_each_resolved():
    class Keys(nn.Module):
        """The bias of attention's keys changes no pattern: its true derivative is zero."""

        @nn.compact
        def __call__(self, x):
            y = nn.MultiHeadDotProductAttention(2, name="attention")(x)
            return nn.Dense(3)(y.mean(1) + 1e-8 * nn.Dense(6, name="faint")(x[:, 0]))

    x = normal(4, 24, 5, 6)
    variables = started(Keys(), x)
    recorder = neuron_mech.recorder(Keys(), variables, x, Y, ["attention/key"], recordings=1, audit=False)
    health = recorder.audit(variables)["attention/key"]
    assert health.unresolved < 0.01
    each = neuron_mech.gradients(Keys(), variables, x, Y, "attention/key")["attention/key"]
    assert np.abs(np.asarray(each).sum(1)).max() < 1e-6  # what the bias would have


def test_signs_that_rounding_decides_are_the_audit_s_unresolved_ones():
    class Shifted(nn.Module):
        """One neuron turns the logits, the other raises all of them alike, which changes no loss: its true derivative
        is the sum of the wrong classes' probabilities less one, zero.
        """

        @nn.compact
        def __call__(self, x):
            hidden = nn.Dense(2, name="hidden")(x)
            return hidden[:, :1] * jnp.asarray([[2.0, 1.0, -1.0, 0.5, -2.0]]) + hidden[:, 1:]

    x, y = normal(4, 60, 7), np.arange(60, dtype=np.int32) % 5
    variables = started(Shifted(), x)
    recorder = neuron_mech.recorder(Shifted(), variables, x, y, "hidden", recordings=1, audit=False).update(variables)
    with jax.enable_x64(True):
        kernel, bias = (np.asarray(variables["params"]["hidden"][name], np.float64) for name in ("kernel", "bias"))
        turn = np.asarray([2.0, 1.0, -1.0, 0.5, -2.0])
        first = (np.asarray(x, np.float64) @ kernel + bias)[:, :1]
        of_wrong = np.where(np.arange(5) == np.asarray(y)[:, None], 0, np.exp(first * turn))
        probability = of_wrong / of_wrong.sum(1, keepdims=True)
        exact = np.stack([probability @ turn - turn[np.asarray(y)], probability.sum(1) - 1], 1)
    assert np.abs(exact[:, 1]).max() < 1e-15
    assert np.abs(exact[:, 0]).min() > 1e-3
    tally = recorder.counts()["hidden"]
    seen = np.asarray(tally.positive) - np.asarray(tally.negative)
    np.testing.assert_array_equal(seen[:, 0], np.sign(exact[:, 0]))
    decided_by_rounding = (seen[:, 1] != 0).mean()
    assert 0.1 < decided_by_rounding < 0.95
    health = recorder.audit(variables, 60)["hidden"]
    # Another program may round otherwise in a few samples.
    assert health.unresolved == pytest.approx((seen[:, 1] != 0).sum() / (seen != 0).sum(), abs=0.05)


# --- Sites ------------------------------------------------------------------------------------------------------------


def test_a_site_out_of_reach_is_left_out_of_all_and_refused_by_name():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            summed = nn.Dense(12, name="of_batch")(x.mean(0))
            return nn.Dense(3, name="out")(nn.relu(nn.Dense(12, name="hidden")(x))) + 0 * summed.mean()

    variables = started(Model())
    with pytest.warns(SiteWarning, match="left out: site 'of_batch' has shape"):
        assert set(neuron_mech.signs(Model(), variables, X, Y)) == {"hidden", "out"}
    with pytest.raises(SiteError, match="none of whose axes is the batch"):
        neuron_mech.signs(Model(), variables, X, Y, "of_batch")


def test_a_model_without_sites_says_so():
    class Bare(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x @ self.param("w", nn.initializers.ones, (7, 3))

    variables = started(Bare())
    for ask in (neuron_mech.sites, neuron_mech.read):
        with pytest.raises(SiteError, match="calls no named module and no activation function"):
            ask(Bare(), variables, X)
    for ask in asked(Bare(), Y):
        with pytest.raises(SiteError, match="has no sites"):
            ask()


def test_a_batch_of_one_that_is_squeezed_away_is_named_as_the_cause():
    class Squeezed(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="out")(nn.relu(nn.Dense(5, name="hidden")(x.squeeze())))

    variables = started(Squeezed())
    with pytest.raises(InputError, match=r"batch of one|squeeze"):
        neuron_mech.signs(Squeezed(), variables, X, Y)


def test_an_axis_name_that_is_bound_nowhere_is_named_as_the_cause():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False, axis_name="devices")(nn.Dense(4)(x))
            return nn.Dense(3)(x)

    variables = {
        "params": {
            "Dense_0": {"kernel": jnp.ones((7, 4)), "bias": jnp.zeros(4)},
            "BatchNorm_0": {"scale": jnp.ones(4), "bias": jnp.zeros(4)},
            "Dense_1": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)},
        },
        "batch_stats": {"BatchNorm_0": {"mean": jnp.zeros(4), "var": jnp.ones(4)}},
    }
    with pytest.raises(InputError, match=r"axis_name.*devices"):
        neuron_mech.signs(Shared(), variables, X, Y, apply={"mutable": ["batch_stats"]})


def test_a_graph_without_a_batch_is_mapped_by_a_method():
    class Graph(nn.Module):
        """Of one graph: nodes and who is whose neighbour."""

        @nn.compact
        def __call__(self, nodes, neighbours):
            for i in range(2):
                nodes = nn.relu(nn.Dense(6, name=f"layer_{i}")(neighbours @ nodes + nodes))
            return nn.Dense(3, name="out")(nodes.sum(0))

    nodes, neighbours = normal(0, 8, 5, 4), np.asarray(normal(1, 8, 5, 5) > 0, np.float32)
    labels = Y[:8]
    variables = drawn.started(Graph(), 0, nodes[0], neighbours[0])
    mapped = nn.vmap(lambda m, *one: m(*one), variable_axes={"params": None}, split_rngs={"params": False})
    found = neuron_mech.gradients(
        *(Graph(), variables, Inputs(nodes, neighbours), labels, "layer_*"), apply={"method": mapped}
    )
    assert found["layer_0"].shape == (8, 5, 6)
    with jax.enable_x64(True):
        given = jax.tree.map(lambda a: np.asarray(a, np.float64), (variables["params"], nodes, neighbours))

        @jax.jit
        def of_one(p, x, a, label):
            def loss(added):
                z = x
                for name, extra in added.items():
                    z = jax.nn.relu((a @ z + z) @ p[name]["kernel"] + p[name]["bias"] + extra)
                logits = z.sum(0) @ p["out"]["kernel"] + p["out"]["bias"]
                right = jnp.arange(3) == label
                return jax.nn.logsumexp(jnp.where(right, -jnp.inf, logits)) - jnp.where(right, logits, 0).sum()

            return jax.grad(loss)({name: jnp.zeros((5, 6)) for name in ("layer_0", "layer_1")})

        p, x, a = given
        for i in range(8):
            for site, exact in of_one(p, x[i], a[i], int(labels[i])).items():
                np.testing.assert_allclose(found[site][i], exact, rtol=1e-3, atol=1e-5)


def test_signs_are_compiled_once():
    model, variables = Logits(), started(Logits())
    traced = []

    def loss(outputs, labels):
        traced.append(1)
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)

    neuron_mech.signs(model, variables, X, Y, loss=loss)
    before = len(traced)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neuron_mech.signs(model, jax.tree.map(lambda p: 2 * np.asarray(p), variables), X, Y, loss=loss)
    assert len(traced) == before
