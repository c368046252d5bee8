"""What categories are held against, by hand: the class sign, the class's majority, and displaced weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from experiments import equal_displacement
from neuron_mech.recording import partitions, predictors

class_signs = jax.jit(predictors.class_signs)
displaced = jax.jit(equal_displacement.displaced, static_argnames="biases")


def test_the_class_sign_is_that_of_the_other_classes_mean_weight_less_the_own():
    weights = np.random.default_rng(0).normal(size=(5, 2, 3))
    found = np.asarray(class_signs(np.asarray(weights, np.float32)))
    for c, p, n in np.ndindex(weights.shape):
        others = [weights[k, p, n] for k in range(5) if k != c]
        assert found[c, p, n] == np.sign(np.mean(others) - weights[c, p, n])


def test_the_class_sign_is_the_derivative_s_where_every_wrong_class_is_as_likely():
    """At the last layer d(margin)/da = sum over wrong classes of their softmax times w_k, less w_right."""
    weights = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)  # classes, neurons

    def margin(activation: jax.Array, label: jax.Array) -> jax.Array:
        logits, right = weights @ activation, jnp.arange(4) == label
        return jax.nn.logsumexp(jnp.where(right, -jnp.inf, logits)) - logits[label]

    gradient, found = jax.jit(jax.grad(margin)), np.asarray(class_signs(weights))
    for label in range(4):
        alike = gradient(np.zeros(6, np.float32), np.int32(label))  # all logits
        np.testing.assert_array_equal(np.sign(alike), found[label])


def test_most_of_the_class_is_counted():
    rng = np.random.default_rng(2)
    labels, category = rng.integers(0, 3, 40), rng.integers(-1, 2, (40, 5)).astype(np.int8)
    found = predictors.of_most_of_the_class(category, labels)
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


def climbed(before, after, category):
    """The share of claim 6, R = (rank at the end - at the start)/(rank at the end - 50), of one neuron."""
    highest = partitions.finally_highest(after[:, None], category[:, None])
    start, end = partitions.mean_rank(np.stack([before, after])[..., None], highest)[:, 0]
    return (end - start) / (end - 50)


def test_a_translation_climbs_nothing_and_what_came_from_everywhere_climbed_all():
    rng = np.random.default_rng(5)
    after, before = rng.normal(size=(2, 20_000))
    category = np.full(20_000, partitions.HIGH, np.int8)
    assert climbed(after - 3, after, category) == 0
    assert climbed(np.exp(after), after, category) == 0  # nor does any other change that keeps the order
    # The start's ranks of 2,000 samples chosen without looking have mean 50, with standard error 100/sqrt(12 * 2,000).
    assert climbed(before, after, category) == pytest.approx(1, abs=4 * (100 / np.sqrt(12 * 2000)) / 45)


def test_half_of_a_normal_distribution_s_correlation_is_left_unclimbed():
    """With correlation rho between start and end, the top tenth's mean rank at the start follows from Phi."""
    rng, rho = np.random.default_rng(6), 0.5
    after, noise = rng.normal(size=(2, 200_000))
    before = rho * after + np.sqrt(1 - rho**2) * noise
    found = climbed(before, after, np.full(200_000, partitions.HIGH, np.int8))
    top = norm.ppf(np.linspace(0.9, 1, 100_001)[:-1] + 0.5e-6)
    start = 100 * norm.cdf(rho * top / np.sqrt(2 - rho**2)).mean()  # E Phi(rho a + sqrt(1 - rho^2) e)
    assert found == pytest.approx((95 - start) / 45, abs=0.01)


def test_a_displacement_keeps_its_numbers_and_changes_its_direction():
    rng = np.random.default_rng(4)

    def params():
        return {
            name: {"kernel": rng.normal(size=(6, 5)).astype(np.float32), "bias": rng.normal(size=5).astype(np.float32)}
            for name in ("affine1", "logits")
        }

    start, now, later = params(), params(), params()
    key = jax.random.key(0)
    moved, again, other = (
        displaced(start, w, k, biases=False) for w, k in ((now, key), (later, key), (now, jax.random.key(1)))
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
    biases = displaced(start, now, key, biases=True)
    for name in start:
        before, after = (np.asarray(p[name]["bias"] - start[name]["bias"]) for p in (now, biases))
        np.testing.assert_allclose(np.sort(after), np.sort(before), atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, displaced(start, start, key, biases=True), start)


@pytest.mark.parametrize("biases", [False, True])
def test_nothing_is_displaced_at_the_start(biases):
    start = {"kernel": np.ones((3, 2), np.float32), "bias": np.zeros(2, np.float32)}
    found = displaced(start, start, jax.random.key(0), biases=biases)
    np.testing.assert_array_equal(found["kernel"], start["kernel"])
