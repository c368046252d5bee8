"""Labels, losses and preparations that would give wrong signs without a word: each is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drawn
import neuron_mech
from classifiers import Logits, X, asked, started
from classifiers import Y as OURS
from neuron_mech.errors import InputError

pytestmark = pytest.mark.usefixtures("lenient")
cross_entropy = optax.softmax_cross_entropy_with_integer_labels
Y = np.asarray(OURS)


def changed(labels, **to):
    """Labels with others in some rows."""
    found = labels.copy()
    for row, label in to.items():
        found[int(row[4:])] = label
    return found


WRONG = {
    "one logit": (Logits(1), (Y > 0).astype(int), "one logit a sample"),
    "labels outside": (Logits(), Y + 1, "none of 3 classes"),
    "labels as floats": (Logits(), Y.astype(np.float32), "class labels are integers"),
    "one-hot labels": (Logits(), np.eye(3, dtype=np.float32)[Y], r"labels.argmax\(-1\)"),
    "labels in a tuple": (Logits(), (Y, Y), "one class index a sample"),
}


@pytest.mark.parametrize("way", WRONG)
def test_labels_that_a_margin_is_not_of_are_refused_by_signs_and_recorder(way):
    model, labels, message = WRONG[way]
    for ask in asked(model, labels):
        with pytest.raises(InputError, match=message):
            ask()


def test_labels_outside_the_classes_are_refused_of_a_cross_entropy_and_taken_of_a_loss_that_knows_them():
    plain = jax.jit(jax.grad(lambda out: cross_entropy(out, np.array([3])).sum()))(np.zeros((1, 3), np.float32))
    assert (np.asarray(plain) > 0).all()  # what there would be in silence: every logit of every sample down
    for wrong, row in ((changed(Y, row_20=3), 20), (changed(Y, row_5=-4), 5)):
        for ask in asked(Logits(), wrong, loss=cross_entropy):
            with pytest.raises(InputError, match=rf"no number for label -?\d \(in row {row}\).*3 classes, 0 to 2"):
                ask()
    masked = lambda out, y: jnp.where(y < 0, 0, cross_entropy(out, jnp.maximum(y, 0)))  # noqa: E731
    model, variables, some = Logits(), started(Logits()), changed(Y, row_5=-1)
    signs = np.asarray(neuron_mech.signs(model, variables, X, some, "out", loss=masked)["out"])
    assert not signs[5].any()
    assert signs[4].all()


def test_a_label_counted_from_the_end_is_refused_and_one_that_means_something_is_taken():
    for ask in asked(Logits(), changed(Y, row_5=-1), loss=cross_entropy):
        with pytest.raises(InputError, match=r"takes label -1 \(in row 5\).*3 classes, 0 to 2, for class 2: leave"):
            ask()
    for ask in asked(Logits(), np.where(Y > 0, 1, -1), loss=lambda out, y: cross_entropy(out, (y > 0).astype(int))):
        ask()
    for ask in asked(Logits(), np.where(Y > 0, 1, -1), loss=lambda out, y: jnp.log1p(jnp.exp(-y * out[:, 0]))):
        ask()


def test_every_label_that_is_none_is_looked_at_not_the_first_alone():
    masked = lambda out, y: jnp.where(y < 0, 0, cross_entropy(out, jnp.maximum(y, 0)))  # noqa: E731
    for ask in asked(Logits(), changed(Y, row_2=-1, row_9=7), loss=masked):
        with pytest.raises(InputError, match=r"no number for label 7 \(in row 9\)"):
            ask()


class Tagger(nn.Module):
    """A class for each token, in a dictionary where it is said so."""

    named: bool = False

    @nn.compact
    def __call__(self, tokens):
        out = nn.Dense(11, name="out")(nn.relu(nn.Dense(12, name="hidden")(nn.Embed(11, 8)(tokens))))
        return {"logits": out} if self.named else out


def test_labels_of_padding_are_refused_where_a_loss_counts_them_and_taken_where_it_does_not():
    tokens = drawn.integers(3, 0, 11, 6, 5)

    def padded(label):
        labels = np.array(tokens)
        labels[4:, 3:] = label
        return labels

    variables = drawn.started(Tagger(), 0, tokens)
    summed = lambda out, y: cross_entropy(out, y).sum(1)  # noqa: E731
    known = lambda out, y: jnp.where(y < 0, 0, cross_entropy(out, jnp.maximum(y, 0))).sum(1)  # noqa: E731
    for padding, message in ((-100, "no number for label -100"), (-1, r"takes label -1 .* for class 10: leave")):
        labels = padded(padding)
        for ask in (
            lambda loss, y=labels: neuron_mech.signs(Tagger(), variables, tokens, y, "hidden", loss=loss),
            lambda loss, y=labels: neuron_mech.recorder(
                *(Tagger(), variables, tokens, y, "hidden"), recordings=1, loss=loss, audit=False
            ),
        ):
            with pytest.raises(InputError, match=rf"{message}|{message}.*11 classes, 0 to 10"):
                ask(summed)
            ask(known)
        signs = neuron_mech.signs(Tagger(), variables, tokens, labels, "hidden", loss=known)["hidden"]
        assert not np.asarray(signs)[4:, 3:].any()
    with pytest.raises(InputError, match=r"no number for label -100 \(in row 4\), though for label 0"):
        neuron_mech.signs(
            *(Tagger(True), variables, tokens, padded(-100), "hidden"),
            loss=lambda out, y: cross_entropy(out["logits"], y).sum(1),
        )


def test_labels_in_whose_type_a_loss_wraps_around_are_refused():
    signed = lambda out, y: nn.softplus((1 - 2 * y) * out[:, 0])  # noqa: E731
    told = lambda out, y: nn.softplus(jnp.where(y == 1, -out[:, 0], out[:, 0]))  # noqa: E731
    model, variables, bits = Logits(1), started(Logits(1)), (Y > 0).astype(np.uint8)
    for ask in asked(model, bits, loss=signed):  # 1 - 2 is 255
        with pytest.raises(InputError, match=r"labels as uint8 than as int32 \(in row \d+\).*astype\(jnp.int32\)"):
            ask()
    right = neuron_mech.signs(model, variables, X, bits.astype(np.int32), "hidden", loss=signed)["hidden"]
    np.testing.assert_array_equal(neuron_mech.signs(model, variables, X, bits, "hidden", loss=told)["hidden"], right)
    np.testing.assert_array_equal(neuron_mech.signs(model, variables, X, Y > 0, "hidden", loss=signed)["hidden"], right)


def test_a_loss_that_has_a_row_for_each_sample_from_elsewhere_is_refused():
    """Of few samples its shape is right, until each is a batch of one."""
    loss = lambda out, y: jnp.asarray([1.0, -2.0, 3.0]) * cross_entropy(out, y)  # noqa: E731
    with pytest.raises(InputError, match=r"\[3\] where it has outputs and labels of 1 sample: .* the labels or inputs"):
        neuron_mech.signs(Logits(), started(Logits()), X[:3], Y[:3], loss=loss)


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


@pytest.mark.parametrize(
    "prepare", [lambda x: x - x.mean(0), lambda x: x + np.random.default_rng().normal(size=x.shape)]
)
def test_what_prepares_a_sample_by_others_or_by_chance_is_refused(prepare):
    model, variables = Logits(), started(Logits())
    with pytest.raises(InputError, match=r"prepare makes other inputs of sample \d+ alone than of it among 24"):
        neuron_mech.recorder(model, variables, X, Y, recordings=1, prepare=prepare)
    neuron_mech.recorder(model, variables, X, Y, recordings=1, prepare=lambda x: (x - 0.5) / 2)
