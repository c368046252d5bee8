"""Recorders in loops of one's own, stretches and halves put together."""

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax.training.train_state import TrainState
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import neuron_mech
import oracles
from drawn import started
from neuron_mech.paper import figures
from neuron_mech.recording import counting
from neuron_mech.taps.objectives import margin
from own_models import Plain

pytestmark = pytest.mark.usefixtures("lenient")
model = Plain()
ALONE = {"mixing": "alone"}
"""Samples are recorded as they always are; whether they mix is not looked for each time."""


@pytest.fixture(scope="module")
def data(digits):
    x, y = np.asarray(digits.train.inputs)[:200], np.asarray(digits.train.labels)[:200]
    return started(model, 0, x[:1]), x, y


def trained(variables, x, y, steps):
    """The variables before each step of a plain loop."""

    @jax.jit
    def step(v, x, y):
        loss = lambda v: optax.softmax_cross_entropy_with_integer_labels(model.apply(v, x), y).mean()  # noqa: E731
        return jax.tree.map(lambda p, g: p - 0.1 * g, v, jax.grad(loss)(v))

    for i in range(steps):
        yield variables
        ids = np.arange(32 * i, 32 * (i + 1)) % len(y)
        variables = step(variables, x[ids], y[ids])


def leaves_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_ten_lines_from_a_model_and_its_loop_to_figure_5(digits, tmp_path):
    images, labels = np.asarray(digits.train.inputs), np.asarray(digits.train.labels)
    rng = np.random.default_rng(0)
    state = TrainState.create(apply_fn=model.apply, params=started(model, 0, images[:1])["params"], tx=optax.adam(1e-3))

    @jax.jit
    def train_step(state, x, y):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(state.apply_fn({"params": params}, x), y).mean()

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    # The ten lines.
    recorder = neuron_mech.recorder(model, {"params": state.params}, images, labels, "Dense_[01]", recordings=30)
    for step in range(300):
        if step % 10 == 0:
            recorder = recorder.update({"params": state.params})
        ids = rng.integers(0, len(labels), 32)
        state = train_step(state, images[ids], labels[ids])
    signs = recorder.signs()
    figures.average_sign_histograms(signs).savefig(tmp_path / "figure5.png")

    assert (tmp_path / "figure5.png").stat().st_size > 10_000
    constancy = recorder.constancy()
    assert 0.3 < constancy["Dense_0"] < constancy["Dense_1"] < 1
    assert signs.constancy.values.tolist() == list(constancy.values())


def test_samples_and_neurons_are_chosen_by_index_or_mask(data):
    variables, x, y = data
    mask = np.arange(200) % 40 == 3
    for samples in (mask, [163, 3, 43, 83, 123], np.flatnonzero(mask)):
        recorder = neuron_mech.recorder(
            model, variables, x, y, "Dense_1", recordings=1, samples=samples, neurons=[9, 2], **ALONE
        )
        assert recorder.rows.tolist() == [3, 43, 83, 123, 163]
        recorder = recorder.update(variables)
        assert recorder.signs().neuron.values.tolist() == [("Dense_1", 2), ("Dense_1", 9)]
        signs = neuron_mech.signs(model, variables, x[mask], y[mask], "Dense_1")["Dense_1"][:, [2, 9]]
        np.testing.assert_array_equal(np.nan_to_num(recorder.average_sign("Dense_1")), signs)


def test_counts_average_signs_and_partitions_are_those_of_signs_kept_one_by_one(data):
    variables, x, y = data
    recorder = neuron_mech.recorder(
        *(model, variables, x, y, "Dense_1"), recordings=9, samples=40, neurons=0.5, keep=3, seed=4
    )
    ids, neurons = np.asarray(recorder.rows), recorder.design.indices("Dense_1")
    assert len(ids) == 40
    assert len(neurons) == 8
    seen, values = [], []
    read = jax.jit(lambda now: neuron_mech.read(model, now, x[ids], "Dense_1")[1])
    for now in trained(variables, x, y, 9):
        recorder = recorder.update(now)
        found = neuron_mech.signs(model, now, x[ids], y[ids], "Dense_1")["Dense_1"]
        seen.append(np.asarray(found)[:, neurons])
        values.append(np.asarray(read(now)["Dense_1"])[:, neurons])
    seen = np.stack(seen)
    tally = recorder.counts()["Dense_1"]
    for i, j in ((0, 0), (7, 3), (39, 7)):
        counts = oracles.tally(seen[:, i, j])
        assert (tally.positive[i, j], tally.negative[i, j], tally.flips[i, j]) == (
            counts["positive"],
            counts["negative"],
            counts["flips"],
        )
    total = seen.sum(0) / np.maximum(np.abs(seen).sum(0), 1)
    average = np.asarray(recorder.average_sign("Dense_1"))
    np.testing.assert_allclose(np.nan_to_num(average), total, atol=1e-6)
    np.testing.assert_array_equal(recorder.partition("Dense_1"), np.sign(seen.sum(0)))
    np.testing.assert_allclose(recorder.watched("Dense_1")[0], np.stack(values)[[0, 4, 8]], rtol=1e-5, atol=1e-6)
    dynamics, classes = recorder.dynamics(), recorder.classes(10)
    assert dynamics.pre_activation.shape == (3, 40, 3)
    assert classes.low_share.shape == (8, 10)
    for figure in (figures.separation(dynamics), figures.dynamics(dynamics, [("Dense_1", 0)])):
        figure.draw_without_rendering()
    figures.class_consistency(classes).draw_without_rendering()


def test_under_jit_and_scan_and_from_a_checkpoint_it_counts_the_same(data, tmp_path):
    variables, x, y = data
    path = [*trained(variables, x, y, 6)]
    new = lambda: neuron_mech.recorder(model, variables, x, y, "Dense_*", recordings=6, keep=3, **ALONE)  # noqa: E731
    plain = new()
    for now in path:
        plain = plain.update(now)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *path)
    scanned, _ = jax.jit(lambda r, vs: jax.lax.scan(lambda r, v: (r.update(v), None), r, vs))(new(), stacked)
    leaves_equal(plain.counts(), scanned.counts())
    traced = []

    @jax.jit
    def update(recorder, variables):
        traced.append(recorder)
        return recorder.update(variables)

    half = new()
    for now in path[:3]:
        half = update(half, now)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "half", half.state)
        checkpointer.wait_until_finished()
        again = new().restored(checkpointer.restore(tmp_path / "half", half.state))
    for now in path[3:]:
        again = update(again, now)
    assert len(traced) == 2  # a recorder is once compiled for, new or restored
    leaves_equal(plain.counts(), again.counts())
    np.testing.assert_array_equal(plain.watched("Dense_1")[0], again.watched("Dense_1")[0])


update = jax.jit(counting.update)


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(np.int8, (9, 6), elements=st.integers(-1, 1)), st.integers(0, 9))
def test_two_stretches_are_one(signs, cut):
    def tally(part):
        found = counting.empty((6,), 9)
        for row in part:
            found = update(found, row)
        return found

    whole, merged = tally(signs), counting.merged(tally(signs[:cut]), tally(signs[cut:]))
    for name in ("positive", "negative", "flips", "trail"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(merged, name))


def test_stretches_and_halves_are_put_together(data):
    variables, x, y = data
    path = [*trained(variables, x, y, 6)]

    def over(path, x, y, recordings):
        found = neuron_mech.recorder(model, variables, x, y, "Dense_1", recordings=recordings, keep=2, **ALONE)
        for now in path:
            found = found.update(now)
        return found

    whole = over(path, x, y, 6)
    two = over(path[:4], x, y, 4).followed_by(over(path[4:], x, y, 2))
    np.testing.assert_array_equal(whole.counts()["Dense_1"].trail, two.counts()["Dense_1"].trail)
    assert two.design.keeps == (0, 3, 4, 5)
    assert two.constancy() == whole.constancy()
    later = over(path, x[120:], y[120:], 6)
    both = over(path, x[:120], y[:120], 6).beside(later.replace(rows=later.rows + 120))
    assert both.constancy() == whole.constancy()
    np.testing.assert_array_equal(both.watched("Dense_1")[0], whole.watched("Dense_1")[0])
    with pytest.raises(ValueError, match="both recorders count sample 0"):
        over(path, x, y, 6).beside(over(path, x, y, 6))


def test_online_counts_each_sample_s_derivative_as_often_as_it_comes(data):
    variables, x, y = data
    recorder = neuron_mech.online(model, variables, x[:8], ["Dense_0", "Dense_1"], samples=200, recordings=15)

    @jax.jit
    def step(variables, recorder, x, y, ids):
        def loss(variables, perturbations):
            return margin(recorder.perturbed(perturbations)(variables, x), y).mean()

        gradients, seen = jax.grad(loss, argnums=(0, 1))(variables, recorder.perturbations(len(ids)))
        return jax.tree.map(lambda p, g: p - 0.1 * g, variables, gradients), recorder.saw(seen, ids)

    by_hand: dict[int, list] = {i: [] for i in range(200)}
    rng = np.random.default_rng(0)
    for _ in range(3):
        for _ in range(5):
            ids = rng.choice(200, 32, replace=False)  # a sample may come in several batches of an epoch
            found = np.asarray(neuron_mech.signs(model, variables, x[ids], y[ids], "Dense_1")["Dense_1"])
            for row, i in enumerate(ids):
                by_hand[i].append(found[row])
            variables, recorder = step(variables, recorder, x[ids], y[ids], ids)
        recorder = recorder.end_epoch()
    counts = oracles.counts(recorder.counts()["Dense_1"])
    for i, rows in by_hand.items():
        for j in (0, 11):
            expected = oracles.tally(np.array([row[j] for row in rows]))
            assert {name: of[i, j] for name, of in counts.items()} == {name: expected[name] for name in counts}
    figures.average_sign_histograms(recorder.signs()).draw_without_rendering()
