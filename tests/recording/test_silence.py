"""What was once wrong without a word: each is right now, or refused, or said."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import neuron_mech
from kinds import MASK, TOKENS, VECTORS, Attends, Towers, normal, squared
from neuron_mech import Inputs, SignHealthWarning
from neuron_mech.errors import InputError
from neuron_mech.taps import SiteError, SiteWarning

pytestmark = pytest.mark.usefixtures("lenient")


class Logits(nn.Module):
    """A classifier, with random layers where it trains."""

    outputs: int = 3
    squeeze: bool = False

    @nn.compact
    def __call__(self, x, train=False, seed=0.0, positions=None):
        x = nn.relu(nn.Dense(12, name="hidden")(x + seed + (0.0 if positions is None else positions)))
        x = nn.Dropout(0.5, deterministic=not train, name="drop")(x)
        x = nn.Dense(self.outputs, name="out")(x)
        return x.squeeze() if self.squeeze else x


X, Y = normal(0, 24, 7), jax.random.randint(jax.random.key(1), (24,), 0, 3)


def started(model, x=X, **kwargs):
    return model.init(jax.random.key(2), x, **kwargs)


def asked(model, labels, x=X, **kwargs):
    """The same of signs and of a recorder."""
    variables = started(model, x)
    return [
        lambda: neuron_mech.signs(model, variables, x, labels, **kwargs),
        lambda: neuron_mech.recorder(model, variables, x, labels, recordings=1, audit=False, **kwargs),
    ]


# --- nn.jit -----------------------------------------------------------------------------------------------------------


def test_nothing_stays_behind_in_what_nn_jit_compiled():
    model = Towers()
    variables = model.init(jax.random.key(0), VECTORS)
    for first in (True, False):  # compiled before it is edited, and the other way round
        if first:
            plain = model.apply(variables, VECTORS)
        cut = neuron_mech.replace(model, {"left/block/dense": jnp.zeros_like})(variables, VECTORS)
        assert float(jnp.abs(cut - plain).max()) > 0.01
        np.testing.assert_array_equal(model.apply(variables, VECTORS), plain)
        assert set(neuron_mech.read(model, variables, VECTORS)[1]) == {
            "left/block/dense",
            "right/block/dense",
            "out",
        }


def test_an_edit_of_a_rematerialised_layer_is_made_once():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="out")(nn.remat(nn.Dense)(5, name="layer")(x))

    variables = started(Model())
    edited = neuron_mech.replace(Model(), {"layer": lambda z: z + 1})(variables, X)
    out = variables["params"]["out"]
    np.testing.assert_allclose(edited - Model().apply(variables, X), np.tile(out["kernel"].sum(0), (24, 1)), rtol=1e-4)


# --- Labels and losses ------------------------------------------------------------------------------------------------

WRONG = {
    "one logit": (Logits(1), (Y > 0).astype(int), "one logit a sample"),
    "labels outside": (Logits(), Y + 1, "none of 3 classes"),
    "labels as floats": (Logits(), Y.astype(jnp.float32), "class labels are integers"),
    "one-hot labels": (Logits(), jax.nn.one_hot(Y, 3), r"labels.argmax\(-1\)"),
    "labels in a tuple": (Logits(), (Y, Y), "one class index a sample"),
}


@pytest.mark.parametrize("way", WRONG)
def test_labels_that_a_margin_is_not_of_are_refused_by_signs_and_recorder(way):
    model, labels, message = WRONG[way]
    for ask in asked(model, labels):
        with pytest.raises(InputError, match=message):
            ask()


def test_outputs_that_a_margin_is_not_of_are_refused_by_signs_and_recorder():
    class Further(nn.Module):
        several: bool = False

        @nn.compact
        def __call__(self, x):
            out = nn.Dense(3)(x)
            return (out,) if self.several else jnp.stack([out, out], 1)

    for model in (Further(), Further(True)):
        for ask in asked(model, Y):
            with pytest.raises(InputError, match="not one array of"):
                ask()


def contrastive(outputs, _):
    unit = outputs / jnp.linalg.norm(outputs, axis=-1, keepdims=True)
    return -jnp.diag(jax.nn.log_softmax(unit @ unit.T))


@pytest.mark.parametrize("mixing", ["refuse", "alone", "batch"])
def test_a_loss_that_mixes_samples_is_refused_whatever_is_to_be_done_with_layers_that_do(mixing):
    model, variables = Logits(), started(Logits())
    for ask in (
        lambda: neuron_mech.signs(model, variables, X, Y, loss=contrastive),
        lambda: neuron_mech.recorder(model, variables, X, Y, recordings=1, loss=contrastive, mixing=mixing),
    ):
        with pytest.raises(InputError, match="loss of one sample is made of other samples' outputs"):
            ask()


# --- Arguments of the model -------------------------------------------------------------------------------------------


def test_what_goes_with_the_samples_is_an_input_and_is_refused_elsewhere():
    model = Attends()
    variables = model.init(jax.random.key(0), TOKENS, TOKENS % 3, mask=MASK)
    labels = normal(1, 6, 2)
    together = Inputs(TOKENS, TOKENS % 3, mask=MASK)
    signs = neuron_mech.signs(model, variables, together, labels, loss=squared)
    for i in range(6):
        alone = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], together)
        found = neuron_mech.signs(model, variables, alone, labels[i : i + 1], loss=squared)
        for site in signs:
            assert (signs[site][i] == found[site][0]).mean() > 0.98
    for ask in (neuron_mech.signs, lambda *args, **kw: neuron_mech.recorder(*args, recordings=1, **kw)):
        with pytest.raises(InputError, match=r"'mask' of shape \[6, 5\], a row for each of 6.*Inputs\(..., mask=...\)"):
            ask(model, variables, Inputs(TOKENS, TOKENS % 3), labels, loss=squared, apply={"mask": MASK})


def test_a_models_arguments_may_have_any_names():
    class Named(nn.Module):
        @nn.compact
        def __call__(self, x, ids, labels, precision, *, derivative):
            return nn.Dense(3, name="hidden")(x * ids + labels) * precision * derivative

    apply = {"ids": 2.0, "labels": jnp.ones(7), "precision": 3.0, "derivative": -1.0}
    variables = Named().init(jax.random.key(0), X, **apply)
    found = neuron_mech.gradients(Named(), variables, X, Y, "hidden", loss=lambda out, y: out.sum(-1), apply=apply)
    np.testing.assert_allclose(found["hidden"], -3 * np.ones((24, 3)))
    recorder = neuron_mech.recorder(
        *(Named(), variables, X, Y, "hidden"), recordings=1, loss=lambda out, y: out.sum(-1), apply=apply
    ).update(variables)
    np.testing.assert_array_equal(recorder.average_sign("hidden"), -np.ones((24, 3)))


def test_the_models_arguments_are_told_from_the_recorders():
    model, variables = Logits(), started(Logits())
    apply = {"seed": 0.5, "positions": jnp.arange(7.0)}
    recorder = neuron_mech.recorder(model, variables, X, Y, "hidden", recordings=1, seed=3, samples=10, apply=apply)
    recorder = recorder.update(variables)
    plain = neuron_mech.signs(model, variables, X + 0.5 + jnp.arange(7.0)[None], Y, "hidden")["hidden"]
    np.testing.assert_array_equal(np.nan_to_num(recorder.average_sign("hidden")), plain[recorder.rows])
    with pytest.raises(TypeError, match="postions"):
        neuron_mech.recorder(model, variables, X, Y, recordings=1, postions=3)


# --- Noise ------------------------------------------------------------------------------------------------------------


def test_every_sample_and_every_recording_has_noise_of_its_own():
    model, variables = Logits(), started(Logits())
    x, y = jnp.tile(X[:1], (400, 1)), jnp.tile(Y[:1], 400)  # one sample, many times
    apply = {"train": True, "rngs": {"dropout": jax.random.key(5)}}
    signs = neuron_mech.signs(model, variables, x, y, "drop", apply=apply)["drop"]
    kept = (np.asarray(neuron_mech.gradients(model, variables, x, y, ":relu", apply=apply)[":relu"]) != 0).mean(0)
    assert len(np.unique(np.asarray(signs), axis=0)) == 1  # what comes after the mask knows nothing of it
    np.testing.assert_allclose(kept, 0.5, atol=0.12)  # five standard deviations
    recorder = neuron_mech.recorder(model, variables, x, y, ":relu", recordings=60, apply=apply, chunk=128)
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

    x, y = jnp.tile(X[:1], (400, 1)), jnp.tile(Y[:1], 400)
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
    below = np.asarray(model.apply(variables, X) < 0)[:, 0]
    hidden = variables["params"]["hidden"]
    lost = (np.asarray(X @ hidden["kernel"] + hidden["bias"]) > 0)[below].sum()  # a relu that is off passes nothing on
    assert 0 < below.sum() < 24
    assert recorder.not_finite() == {"hidden": lost}
    with pytest.warns(SignHealthWarning, match=f"{lost:,} derivatives of {below.sum()} samples"):
        recorder.constancy()


def test_derivatives_far_below_the_largest_are_seen_by_the_audit():
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
    summed = neuron_mech.gradients(Keys(), variables, x, Y, "attention/key")["attention/key"].sum(1)
    assert float(jnp.abs(summed).max()) < 1e-6  # what the bias would have


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

    nodes, neighbours = normal(0, 8, 5, 4), (normal(1, 8, 5, 5) > 0).astype(jnp.float32)
    labels = Y[:8]
    variables = Graph().init(jax.random.key(0), nodes[0], neighbours[0])
    mapped = nn.vmap(lambda m, *one: m(*one), variable_axes={"params": None}, split_rngs={"params": False})
    found = neuron_mech.gradients(
        *(Graph(), variables, Inputs(nodes, neighbours), labels, "layer_*"), apply={"method": mapped}
    )
    assert found["layer_0"].shape == (8, 5, 6)
    p = variables["params"]
    with jax.enable_x64(True):
        p = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), p)
        for i in range(8):

            def loss(added, i=i):
                x, a = (jnp.asarray(leaf[i], jnp.float64) for leaf in (nodes, neighbours))
                for name, extra in added.items():
                    x = jax.nn.relu((a @ x + x) @ p[name]["kernel"] + p[name]["bias"] + extra)
                logits = x.sum(0) @ p["out"]["kernel"] + p["out"]["bias"]
                right = jnp.arange(3) == int(labels[i])
                return jax.nn.logsumexp(logits[~right]) - logits[right][0]

            exact = jax.grad(loss)({name: jnp.zeros((5, 6)) for name in ("layer_0", "layer_1")})
            for site in exact:
                np.testing.assert_allclose(found[site][i], exact[site], rtol=1e-3, atol=1e-5)


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
        neuron_mech.signs(model, jax.tree.map(lambda p: 2 * p, variables), X, Y, loss=loss)
    assert len(traced) == before
