"""What was once wrong without a word: each is right now, or refused, or said."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drawn
import neuron_mech
from classifiers import Logits, X, Y, asked, started
from kinds import MASK, TOKENS, VECTORS, Attends, Towers
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


def test_labels_outside_the_classes_are_refused_of_a_cross_entropy_and_taken_of_a_loss_that_knows_them():
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    plain = jax.grad(lambda out: cross_entropy(out, jnp.asarray([3])).sum())(jnp.zeros((1, 3)))
    assert (plain > 0).all()  # what there would be in silence: every logit of every sample down
    for wrong, row in ((Y.at[20].set(3), 20), (Y.at[5].set(-4), 5)):
        for ask in asked(Logits(), wrong, loss=cross_entropy):
            with pytest.raises(InputError, match=rf"no number for label -?\d \(in row {row}\).*3 classes, 0 to 2"):
                ask()
    masked = lambda out, y: jnp.where(y < 0, 0, cross_entropy(out, jnp.maximum(y, 0)))  # noqa: E731
    model, variables, some = Logits(), started(Logits()), Y.at[5].set(-1)
    signs = neuron_mech.signs(model, variables, X, some, "out", loss=masked)["out"]
    assert not signs[5].any()
    assert signs[4].all()


def test_a_label_counted_from_the_end_is_refused_and_one_that_means_something_is_taken():
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    for ask in asked(Logits(), Y.at[5].set(-1), loss=cross_entropy):
        with pytest.raises(InputError, match=r"takes label -1 \(in row 5\).*3 classes, 0 to 2, for class 2: leave"):
            ask()
    for ask in asked(Logits(), jnp.where(Y > 0, 1, -1), loss=lambda out, y: cross_entropy(out, (y > 0).astype(int))):
        ask()
    for ask in asked(Logits(), jnp.where(Y > 0, 1, -1), loss=lambda out, y: jnp.log1p(jnp.exp(-y * out[:, 0]))):
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
    variables = drawn.started(model, 0, TOKENS, TOKENS % 3, mask=MASK)
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
    variables = drawn.started(Named(), 0, X, **apply)
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
