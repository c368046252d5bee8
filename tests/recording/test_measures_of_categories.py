"""What categories are held against, by hand: the class sign, the class's majority, and displaced weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from experiments.equal_displacement import displaced
from neuron_mech.recording import partitions


def test_the_class_sign_is_that_of_the_other_classes_mean_weight_less_the_own():
    weights = np.random.default_rng(0).normal(size=(5, 2, 3))
    found = np.asarray(partitions.class_signs(jnp.asarray(weights, jnp.float32)))
    for c, p, n in np.ndindex(weights.shape):
        others = [weights[k, p, n] for k in range(5) if k != c]
        assert found[c, p, n] == np.sign(np.mean(others) - weights[c, p, n])


def test_the_class_sign_is_the_derivative_s_where_every_wrong_class_is_as_likely():
    """At the last layer d(margin)/da = sum over wrong classes of their softmax times w_k, less w_right."""
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6)), jnp.float32)  # classes, neurons

    def margin(activation: jax.Array, label: int) -> jax.Array:
        logits = weights @ activation
        wrong = jnp.delete(logits, label)
        return jax.nn.logsumexp(wrong) - logits[label]

    for label in range(4):
        gradient = jax.grad(margin)(jnp.zeros(6), label)  # all logits alike
        np.testing.assert_array_equal(np.sign(gradient), partitions.class_signs(weights)[label])


def test_most_of_the_class_is_counted():
    rng = np.random.default_rng(2)
    labels, category = rng.integers(0, 3, 40), rng.integers(-1, 2, (40, 5)).astype(np.int8)
    found = partitions.of_most_of_the_class(category, labels)
    for sample in range(40):
        for neuron in range(5):
            of = [int(category[s, neuron]) for s in range(40) if labels[s] == labels[sample]]
            low, high = of.count(1), of.count(-1)
            assert found[sample, neuron] == (low > high) - (low < high)


def test_separation_of_one_half_s_categories_is_scikit_learn_s():
    rng = np.random.default_rng(3)
    early = rng.choice([-1, 1], (60, 4)).astype(np.int8)
    final = rng.normal(size=(1, 60, 4)) - 0.5 * early
    found = partitions.separation(final, early).auc[0]
    expected = [roc_auc_score(early[:, n] == -1, final[0, :, n]) for n in range(4)]
    np.testing.assert_allclose(found, expected)


def test_a_displacement_keeps_its_numbers_and_changes_its_direction():
    rng = np.random.default_rng(4)

    def params():
        return {
            name: {"kernel": jnp.asarray(rng.normal(size=(6, 5))), "bias": jnp.asarray(rng.normal(size=5))}
            for name in ("affine1", "logits")
        }

    start, now, later = params(), params(), params()
    key = jax.random.key(0)
    moved, again, other = (
        displaced(start, w, k, False) for w, k in ((now, key), (later, key), (now, jax.random.key(1)))
    )
    for name in start:
        before, after = (np.asarray(p[name]["kernel"] - start[name]["kernel"]) for p in (now, moved))
        np.testing.assert_allclose(np.sort(after, axis=None), np.sort(before, axis=None), atol=1e-6)
        assert not np.allclose(before, after)
        np.testing.assert_array_equal(moved[name]["bias"], now[name]["bias"])
        # The permutation is one and the same at every moment, and another key's is another.
        place = [int(np.abs(before.ravel() - v).argmin()) for v in after.ravel()]
        step = np.asarray(later[name]["kernel"] - start[name]["kernel"]).ravel()
        np.testing.assert_allclose(
            np.asarray(again[name]["kernel"] - start[name]["kernel"]).ravel(), step[place], atol=1e-6
        )
        assert not np.allclose(moved[name]["kernel"], other[name]["kernel"])
    biases = displaced(start, now, key, True)
    for name in start:
        before, after = (np.asarray(p[name]["bias"] - start[name]["bias"]) for p in (now, biases))
        np.testing.assert_allclose(np.sort(after), np.sort(before), atol=1e-6)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), displaced(start, start, key, True), start))


@pytest.mark.parametrize("biases", [False, True])
def test_nothing_is_displaced_at_the_start(biases):
    start = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
    found = displaced(start, start, jax.random.key(0), biases)
    np.testing.assert_array_equal(found["kernel"], start["kernel"])
