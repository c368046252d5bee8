"""What was once wrong without a word: each is right now, or refused, or said."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drawn
import neuron_mech
from classifiers import Logits, X, Y, started
from kinds import MASK, SEGMENTS, TOKENS, VECTORS, Attends, Towers
from neuron_mech import Inputs
from neuron_mech.errors import InputError
from written_out import normal, squared

pytestmark = pytest.mark.usefixtures("lenient")


# --- nn.jit -----------------------------------------------------------------------------------------------------------


def test_nothing_stays_behind_in_what_nn_jit_compiled():
    model = Towers()
    variables = drawn.started(model, 0, VECTORS)
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


# --- Arithmetic and batches -------------------------------------------------------------------------------------------


def test_a_network_is_audited_that_computes_in_half_precision_after_a_site_in_float32():
    class Mixed(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(64, name="hidden")(x))
            for _ in range(4):
                x += nn.Dense(64, dtype=jnp.bfloat16)(nn.relu(x.astype(jnp.bfloat16))).astype(jnp.float32)
            return nn.Dense(3, dtype=jnp.float32, name="head")(x)

    variables = started(Mixed())
    with pytest.warns(neuron_mech.SignHealthWarning, match="at 'hidden' .* of signs are wrong"):
        neuron_mech.recorder(Mixed(), variables, X, Y, "hidden", recordings=1)


def test_every_loss_is_audited_not_the_main_one_alone():
    faint = lambda out, y: 1e-42 * neuron_mech.margin(out, y)  # noqa: E731
    losses = {"margin": neuron_mech.margin, "faint": faint}
    with pytest.warns(neuron_mech.SignHealthWarning, match="at 'hidden' of loss 'faint' .* are lost"):
        neuron_mech.recorder(Logits(), started(Logits()), X, Y, "hidden", recordings=1, loss=losses)


class Normed(nn.Module):
    """With statistics of its batch."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Dense(12, name="first")(x)))
        return nn.Dense(3)(nn.relu(nn.Dense(8, name="hidden")(x)))


def test_samples_that_mix_are_seen_of_two_and_not_looked_for_in_zeros():
    variables, apply = started(Normed()), {"mutable": ["batch_stats"]}
    with pytest.raises(InputError, match="another sample's input changes"):
        neuron_mech.recorder(Normed(), variables, X[:2], Y[:2], "first", recordings=1, apply=apply)
    for x in (np.zeros((8, 7), np.float32), np.asarray(X)[:1]):
        with pytest.raises(InputError, match=r"inputs are \d times the same"):
            neuron_mech.online(Normed(), variables, x, samples=24, recordings=1, apply=apply)
    with pytest.raises(InputError, match="samples of a batch mix in BatchNorm_0"):
        neuron_mech.online(Normed(), variables, X[:2], samples=24, recordings=1, apply=apply)


def test_an_audit_of_batches_is_of_batches():
    """The first layer's derivative is zero in a batch of one, and its sign then rounding's."""
    variables, apply = started(Normed()), {"mutable": ["batch_stats"]}
    of = {"recordings": 1, "apply": apply, "audit": False}
    of_batches = neuron_mech.recorder(Normed(), variables, X, Y, "first", mixing="batch", **of).audit(variables)
    assert of_batches["first"].unresolved == 0
    alone = neuron_mech.recorder(Normed(), variables, X, Y, "first", mixing="alone", **of).audit(variables)
    assert alone["first"].unresolved != 0


def test_inputs_may_be_by_keyword_alone():
    model, variables = Logits(), started(Logits())
    plain = neuron_mech.signs(model, variables, X, Y)
    for site, found in neuron_mech.signs(model, variables, neuron_mech.Inputs(x=X), Y).items():
        np.testing.assert_array_equal(found, plain[site])


def test_kept_pre_activations_are_of_the_batches_that_are_recorded():
    variables, apply = started(Normed()), {"mutable": ["batch_stats"]}
    recorder = neuron_mech.recorder(
        *(Normed(), variables, X, Y, "hidden"), recordings=2, keep=2, chunk=10, mixing="batch", apply=apply
    )
    recorder = jax.jit(neuron_mech.Recorder.update)(recorder.update(variables), variables)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    for start in range(0, 24, 10):
        z = np.asarray(X[start : start + 10], np.float64) @ p["first"]["kernel"] + p["first"]["bias"]
        normed = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) * p["BatchNorm_0"]["scale"] + p["BatchNorm_0"]["bias"]
        hidden = np.maximum(normed, 0) @ p["hidden"]["kernel"] + p["hidden"]["bias"]
        for kept in recorder.watched("hidden")[0]:
            np.testing.assert_allclose(kept[start : start + 10], hidden, rtol=1e-3, atol=1e-4)


def test_an_axis_that_is_as_long_as_the_batch_by_chance_is_not_taken_for_it():
    class Windows(nn.Module):
        """Four windows of each sample are rows of a larger batch; a table has no batch at all."""

        @nn.compact
        def __call__(self, x):
            table = nn.Dense(24, name="table")(self.param("rows", nn.initializers.normal(), (4, 5)))
            hidden = nn.relu(nn.Dense(24, name="hidden")(x.reshape(len(x) * 4, 4, 6)) + table)
            return nn.Dense(3, name="out")(hidden.reshape(len(x), -1))

    x = normal(0, 24, 16, 6)
    variables = started(Windows(), x)
    found = neuron_mech.sites(Windows(), variables, x)
    assert [name for name, site in found.items() if not site.trouble] == ["out"]
    for site in ("hidden", "table"):
        for ask in (neuron_mech.read, lambda *args: neuron_mech.online(*args, samples=24, recordings=1)):
            with pytest.raises(InputError, match=rf"'{site}' has shape .* none of whose axes is the batch"):
                ask(Windows(), variables, x, site)


# --- Arguments of the model -------------------------------------------------------------------------------------------


def test_what_goes_with_the_samples_is_an_input_and_is_refused_elsewhere():
    model = Attends()
    variables = drawn.started(model, 0, TOKENS, SEGMENTS, mask=MASK)
    labels = normal(1, 6, 2)
    together = Inputs(TOKENS, SEGMENTS, mask=MASK)
    signs = neuron_mech.signs(model, variables, together, labels, loss=squared)
    for i in range(6):
        alone = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i : i + 1], together)
        found = neuron_mech.signs(model, variables, alone, np.asarray(labels)[i : i + 1], loss=squared)
        for site in signs:
            assert (np.asarray(signs[site])[i] == np.asarray(found[site])[0]).mean() > 0.98
    for ask in (neuron_mech.signs, lambda *args, **kw: neuron_mech.recorder(*args, recordings=1, **kw)):
        with pytest.raises(InputError, match=r"'mask' of shape \[6, 5\], a row for each of 6.*Inputs\(..., mask=...\)"):
            ask(model, variables, Inputs(TOKENS, SEGMENTS), labels, loss=squared, apply={"mask": MASK})


def test_a_models_arguments_may_have_any_names():
    class Named(nn.Module):
        @nn.compact
        def __call__(self, x, ids, labels, precision, *, derivative):
            return nn.Dense(3, name="hidden")(x * ids + labels) * precision * derivative

    apply = {"ids": 2.0, "labels": jnp.asarray(np.ones(7, np.float32)), "precision": 3.0, "derivative": -1.0}
    variables = drawn.started(Named(), 0, X, **apply)
    found = neuron_mech.gradients(Named(), variables, X, Y, "hidden", loss=lambda out, y: out.sum(-1), apply=apply)
    np.testing.assert_allclose(found["hidden"], -3 * np.ones((24, 3)))
    recorder = neuron_mech.recorder(
        *(Named(), variables, X, Y, "hidden"), recordings=1, loss=lambda out, y: out.sum(-1), apply=apply
    ).update(variables)
    np.testing.assert_array_equal(recorder.average_sign("hidden"), -np.ones((24, 3)))


def test_the_models_arguments_are_told_from_the_recorders():
    model, variables = Logits(), started(Logits())
    apply = {"seed": 0.5, "positions": jnp.asarray(np.arange(7, dtype=np.float32))}
    recorder = neuron_mech.recorder(model, variables, X, Y, "hidden", recordings=1, seed=3, samples=10, apply=apply)
    recorder = recorder.update(variables)
    plain = neuron_mech.signs(model, variables, np.asarray(X) + 0.5 + np.arange(7, dtype=np.float32), Y, "hidden")[
        "hidden"
    ]
    np.testing.assert_array_equal(np.nan_to_num(recorder.average_sign("hidden")), np.asarray(plain)[recorder.rows])
    with pytest.raises(TypeError, match="postions"):
        neuron_mech.recorder(model, variables, X, Y, recordings=1, postions=3)
