"""Recorders in loops of one's own, stretches and halves put together, and ten ways of holding it wrong."""

import re
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import oracles
from neuron_mech import figures, gradient_signs, own, results, taps
from neuron_mech.objectives import margin
from neuron_mech.own import SignHealthWarning


@pytest.fixture(autouse=True)
def as_they_would_run():
    """Flax's own layers promote types and ranks in silence."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Model(nn.Module):
    """Anyone's."""

    width: int = 16

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width)(x.reshape(len(x), -1)))
        x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(10)(x)


model = Model()


@pytest.fixture(scope="module")
def data(digits):
    x, y = digits.train.inputs[:200], digits.train.labels[:200]
    return model.init(jax.random.key(0), x[:1]), x, y


def trained(variables, x, y, steps):
    """The variables before each step of a plain loop."""
    step = jax.jit(
        jax.grad(lambda v, x, y: optax.softmax_cross_entropy_with_integer_labels(model.apply(v, x), y).mean())
    )
    for i in range(steps):
        yield variables
        ids = np.arange(32 * i, 32 * (i + 1)) % len(y)
        variables = jax.tree.map(lambda p, g: p - 0.1 * g, variables, step(variables, x[ids], y[ids]))


def leaves_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


# --- In a loop --------------------------------------------------------------------------------------------------------


def test_ten_lines_from_a_model_and_its_loop_to_figure_5(digits, tmp_path):
    images, labels = digits.train.inputs, digits.train.labels
    state = TrainState.create(
        apply_fn=model.apply, params=model.init(jax.random.key(0), images[:1])["params"], tx=optax.adam(1e-3)
    )

    @jax.jit
    def train_step(state, ids):
        def loss(params):
            logits = state.apply_fn({"params": params}, images[ids])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[ids]).mean()

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    # The ten lines.
    recorder = own.recorder(model, {"params": state.params}, images, labels, "Dense_[01]", recordings=30)
    for step in range(300):
        if step % 10 == 0:
            recorder = recorder.update({"params": state.params})
        state = train_step(state, jax.random.randint(jax.random.key(step), (32,), 0, len(labels)))
    figures.average_sign_histograms(recorder.signs()).savefig(tmp_path / "figure5.png")

    assert (tmp_path / "figure5.png").stat().st_size > 10_000
    constancy = recorder.constancy()
    assert 0.3 < constancy["Dense_0"] < constancy["Dense_1"] < 1
    assert recorder.signs().constancy.values.tolist() == list(constancy.values())


def test_samples_and_neurons_are_chosen_by_index_or_mask(data):
    variables, x, y = data
    mask = np.arange(200) % 40 == 3
    for samples in (mask, [163, 3, 43, 83, 123], np.flatnonzero(mask)):
        recorder = own.recorder(model, variables, x, y, "Dense_1", recordings=1, samples=samples, neurons=[9, 2])
        assert recorder.rows.tolist() == [3, 43, 83, 123, 163]
        recorder = recorder.update(variables)
        assert recorder.signs().neuron_Dense_1.values.tolist() == [2, 9]
        signs = own.signs(model, variables, x[mask], y[mask], "Dense_1")["Dense_1"][:, [2, 9]]
        np.testing.assert_array_equal(recorder.average_sign("Dense_1"), signs)


def test_counts_average_signs_and_partitions_are_those_of_signs_kept_one_by_one(data):
    variables, x, y = data
    recorder = own.recorder(*(model, variables, x, y, "Dense_1"), recordings=9, samples=40, neurons=0.5, keep=3, seed=4)
    ids, neurons = np.asarray(recorder.rows), recorder.design.indices("Dense_1")
    assert len(ids) == 40
    assert len(neurons) == 8
    seen, values = [], []
    for now in trained(variables, x, y, 9):
        recorder = recorder.update(now)
        found = own.signs(model, now, x[ids], y[ids], "Dense_1")["Dense_1"]
        seen.append(np.asarray(found)[:, neurons])
        values.append(np.asarray(own.read(model, now, x[ids], "Dense_1")[1]["Dense_1"])[:, neurons])
    seen = np.stack(seen)
    tally = recorder.tallies["Dense_1"]
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
    np.testing.assert_allclose(recorder.kept["Dense_1"], np.stack(values)[[0, 4, 8]], rtol=1e-5, atol=1e-6)
    dynamics, classes = recorder.dynamics(), recorder.classes(10)
    assert dynamics.pre_activation_Dense_1.shape == (3, 40, 3)
    assert classes.low_share.shape == (8, 10)
    for figure in (figures.separation(dynamics), figures.dynamics(dynamics, [("Dense_1", 0)])):
        figure.draw_without_rendering()
    figures.class_consistency(classes).draw_without_rendering()


def test_under_jit_and_scan_and_from_a_checkpoint_it_counts_the_same(data, tmp_path):
    variables, x, y = data
    path = [*trained(variables, x, y, 6)]
    new = lambda: own.recorder(model, variables, x, y, "Dense_*", recordings=6, keep=3)  # noqa: E731
    plain = new()
    for now in path:
        plain = plain.update(now)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *path)
    scanned, _ = jax.jit(lambda r, vs: jax.lax.scan(lambda r, v: (r.update(v), None), r, vs))(new(), stacked)
    leaves_equal(plain.tallies, scanned.tallies)
    half = new()
    for now in path[:3]:
        half = half.update(now)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "half", half.state)
        checkpointer.wait_until_finished()
        again = new().restored(checkpointer.restore(tmp_path / "half", half.state))
    for now in path[3:]:
        again = again.update(now)
    leaves_equal(plain.tallies, again.tallies)
    leaves_equal(plain.kept, again.kept)


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(np.int8, (9, 6), elements=st.integers(-1, 1)), st.integers(0, 9))
def test_two_stretches_are_one(signs, cut):
    def tally(part):
        found = gradient_signs.empty((6,), 9)
        for row in part:
            found = gradient_signs.update(found, jnp.asarray(row))
        return found

    whole, merged = tally(signs), gradient_signs.merged(tally(signs[:cut]), tally(signs[cut:]))
    for name in ("positive", "negative", "flips", "trail"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(merged, name))


def test_stretches_and_halves_are_put_together(data):
    variables, x, y = data
    path = [*trained(variables, x, y, 6)]

    def over(path, x, y, recordings):
        found = own.recorder(model, variables, x, y, "Dense_1", recordings=recordings, keep=2)
        for now in path:
            found = found.update(now)
        return found

    whole = over(path, x, y, 6)
    two = over(path[:4], x, y, 4).followed_by(over(path[4:], x, y, 2))
    np.testing.assert_array_equal(whole.tallies["Dense_1"].trail, two.tallies["Dense_1"].trail)
    assert two.design.keeps == (0, 3, 4, 5)
    assert two.constancy() == whole.constancy()
    later = over(path, x[120:], y[120:], 6)
    both = over(path, x[:120], y[:120], 6).beside(later.replace(rows=later.rows + 120))
    assert both.constancy() == whole.constancy()
    leaves_equal(both.kept, whole.kept)
    with pytest.raises(ValueError, match="both recorders count sample 0"):
        over(path, x, y, 6).beside(over(path, x, y, 6))


def test_online_counts_each_sample_s_derivative_as_often_as_it_comes(data):
    variables, x, y = data
    recorder = own.online(model, variables, x[:8], ["Dense_0", "Dense_1"], samples=200, recordings=15)

    @jax.jit
    def step(variables, recorder, ids):
        def loss(variables, nudges):
            return margin(recorder.nudged(nudges)(variables, x[ids]), y[ids]).mean()

        gradients, seen = jax.grad(loss, argnums=(0, 1))(variables, recorder.nudges(len(ids)))
        return jax.tree.map(lambda p, g: p - 0.1 * g, variables, gradients), recorder.saw(seen, ids)

    by_hand: dict[int, list] = {i: [] for i in range(200)}
    rng = np.random.default_rng(0)
    for _ in range(3):
        for _ in range(5):
            ids = rng.choice(200, 32, replace=False)  # a sample may come in several batches of an epoch
            found = own.signs(model, variables, x[ids], y[ids], "Dense_1")["Dense_1"]
            for row, i in enumerate(ids):
                by_hand[i].append(np.asarray(found[row]))
            variables, recorder = step(variables, recorder, jnp.asarray(ids))
        recorder = recorder.end_epoch()
    tally = recorder.tallies["Dense_1"]
    for i, rows in by_hand.items():
        for j in (0, 11):
            counts = oracles.tally(np.array([row[j] for row in rows]))
            assert (tally.positive[i, j], tally.negative[i, j], tally.flips[i, j]) == (
                counts["positive"],
                counts["negative"],
                counts["flips"],
            )
    figures.average_sign_histograms(recorder.signs()).draw_without_rendering()


# --- NNX --------------------------------------------------------------------------------------------------------------


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


def test_an_nnx_model_has_sites_like_any_other(data, tmp_path):
    _, x, y = data
    net = Net(nnx.Rngs(0))
    net.eval()
    linen, variables = own.from_nnx(net)
    assert [*own.sites(linen, variables, x)] == [
        *("first", "blocks/0/up", "blocks/0/down", "blocks/1/up", "blocks/1/down", "last")
    ]
    logits, values = own.read(linen, variables, x, "blocks/*/up")
    np.testing.assert_allclose(logits, net(x), rtol=1e-6)
    np.testing.assert_allclose(values["blocks/0/up"], net.blocks[0].up(net.first(x.reshape(len(x), -1))), rtol=1e-5)
    recorder = own.recorder(linen, variables, x, y, "blocks/*/up", recordings=1).update(own.variables(net))
    # The bias's own gradient, sample by sample, by nothing but NNX.
    for i in range(5):
        gradient = nnx.grad(lambda net, i=i: margin(net(x[i : i + 1]), y[i : i + 1]).sum())(net)
        for b in range(2):
            seen = recorder.average_sign(f"blocks/{b}/up")[i]
            np.testing.assert_array_equal(np.nan_to_num(seen), np.sign(gradient["blocks"][b]["up"]["bias"][...]))
    results.write_dataset(tmp_path / "signs.nc", recorder.signs())  # where names may hold no slash
    assert results.read_dataset(tmp_path / "signs.nc").label.values.tolist() == ["blocks/0/up", "blocks/1/up"]
    cut = own.replace(linen, {"blocks/1/up": jnp.zeros_like})(variables, x)
    assert float(jnp.abs(cut - logits).max()) > 0


def test_what_an_nnx_model_cannot_do_is_said(data):
    _, x, y = data
    net = Net(nnx.Rngs(0))
    linen, variables = own.from_nnx(net)
    with pytest.raises(ValueError, match=r"another sample's input changes.*eval\(\)"):
        own.recorder(linen, variables, x, y, "*", recordings=1)
    net = Net(nnx.Rngs(0), scanned=True)
    net.eval()
    with pytest.raises(taps.SiteError, match="inside a transformation"):
        own.sites(*own.from_nnx(net), x)


# --- Held wrong -------------------------------------------------------------------------------------------------------


def test_a_loss_whose_signs_float32_loses_is_called_out(data):
    variables, x, y = data
    sure = jax.tree.map(lambda p: 40 * p, variables)
    with pytest.warns(SignHealthWarning, match=r"are wrong and .* are lost.*loss=margin"):
        own.recorder(
            *(model, sure, x, y, "Dense_1"), recordings=1, loss=optax.softmax_cross_entropy_with_integer_labels
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own.recorder(model, sure, x, y, "Dense_1", recordings=1)


def test_the_plan_says_what_it_costs_and_what_would_fit(data):
    variables, x, y = data
    plan = own.plan(model, variables, x, y, "Dense_[01]", recordings=100)
    assert plan.counts == 3 * 200 * 32
    assert plan.counts == sum(leaf.nbytes for leaf in jax.tree.leaves(plan.recorder().tallies))
    assert plan.samples == x.nbytes + y.nbytes
    assert "100 recordings of Dense_0 (200 samples x 16 values)" in str(plan)
    assert 0 < plan.seconds() < 60
    budget = plan.device // 2
    fit = plan.samples_within(budget)
    smaller = own.plan(model, variables, x, y, "Dense_[01]", recordings=100, samples=fit, budget=budget)
    assert smaller.device <= budget
    with pytest.raises(ValueError, match=rf"budget={budget}.*samples={fit} would fit"):
        own.plan(model, variables, x, y, "Dense_[01]", recordings=100, budget=budget)


def record(data, names="Dense_1", inputs=None, labels=None, **changes):
    variables, x, y = data
    inputs, labels = (x if inputs is None else inputs), (y if labels is None else labels)
    return own.recorder(model, variables, inputs, labels, names, **{"recordings": 2, **changes})


WRONG = {
    "a name that is none": (lambda d: record(d, "Dens_1"), "'Dens_1' is no site; did you mean 'Dense_1'"),
    "a regular expression that fits nothing": (lambda d: record(d, re.compile("conv.*")), r"'conv.\*' is no site"),
    "inputs and labels of different sizes": (lambda d: record(d, labels=d[2][:50]), "batch as first axis"),
    "labels as floats": (lambda d: record(d, labels=d[2] * 1.0), "class labels are integers"),
    "a loss that is a mean": (lambda d: record(d, loss=lambda o, y: margin(o, y).mean()), "before .mean"),
    "a loss of each output": (lambda d: record(d, loss=lambda o, y: o), r"\[32, 10\] for 32 samples"),
    "a loss that cannot take them": (lambda d: record(d, loss=lambda o, y: o["logits"]), "loss cannot take"),
    "a share above one": (lambda d: record(d, samples=1.5), "share between 0.0 and 1.0"),
    "a sample that is not there": (lambda d: record(d, samples=[3, 200]), "samples has index 200, but there are 200"),
    "a neuron twice": (lambda d: record(d, neurons=[1, 3, 3]), "neurons has index 3 2 times: name each once"),
    "a mask of another size": (lambda d: record(d, samples=np.ones(7, bool)), r"samples is bool\[7\].*a mask of 200"),
    "none of them": (lambda d: record(d, samples=[]), "at least one"),
    "no recordings": (lambda d: record(d, recordings=0), "recordings=0"),
    "an activation that is out of reach": (
        lambda d: record(d, derivative="activation", recordings=1),
        "only its pre-activation can be reached",
    ),
    "another network's variables": (
        lambda d: record(d).update(Model(8).init(jax.random.key(0), d[1][:1])),
        r"bias'\] is \[8\], was \[16\]",
    ),
    "parameters alone": (lambda d: record(d).update(d[0]["params"]), r"pass what model.apply takes"),
    "more recordings than were announced": (
        lambda d: record(d, recordings=1).update(d[0]).update(d[0]),
        "recordings=1: its counts would overflow",
    ),
    "more of them in secret, under jit": (
        lambda d: jax.jit(own.Recorder.update)(record(d, recordings=1).update(d[0]), d[0]).constancy(),
        "recordings=1: its counts would overflow",
    ),
    "labels of no class": (
        lambda d: record(d, loss=lambda o, y: o.sum(-1), labels=d[2] * 1.0, audit=False).classes(10),
        "one class index for each",
    ),
    "dynamics of nothing kept": (lambda d: record(d).dynamics(), "keep=40"),
    "ids of another batch": (
        lambda d: (r := own.online(model, d[0], d[1][:4], "Dense_1", samples=200, recordings=2)).saw(
            r.nudges(8), np.arange(9)
        ),
        "9 ids came with them",
    ),
    "an epoch without an end": (
        lambda d: (
            (r := own.online(model, d[0], d[1][:4], "Dense_1", samples=200, recordings=2, room=10))
            .saw(r.nudges(8), np.arange(8))
            .saw(r.nudges(8), np.arange(8))
            .end_epoch()
        ),
        "16 samples came .* room for 10",
    ),
    "an id that is none": (
        lambda d: (
            (r := own.online(model, d[0], d[1][:4], "Dense_1", samples=200, recordings=2))
            .saw(r.nudges(2), np.array([3, 200]))
            .end_epoch()
        ),
        "sample 200 came",
    ),
}


@pytest.mark.parametrize("way", WRONG)
def test_held_wrong_it_says_what_to_do(data, way):
    act, message = WRONG[way]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        act(data)
    assert "\n" not in str(caught.value)


def test_a_recorder_used_up_says_so(data):
    recorder = record(data)
    recorder.update(data[0])
    with pytest.raises(ValueError, match="used up by an earlier update"):
        recorder.update(data[0])


def test_a_site_that_vanishes_under_jit_is_an_error():
    class Compiled(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(nn.jit(nn.Dense)(8, name="inner")(x))

    x = jnp.ones((4, 3))
    variables = Compiled().init(jax.random.key(0), x)
    Compiled().apply(variables, x)
    found = own.sites(Compiled(), variables, x)
    cut = own.replace(Compiled(), {"inner": jnp.zeros_like})
    if "inner" in found:
        np.testing.assert_allclose(
            cut(variables, x), jnp.broadcast_to(variables["params"]["Dense_0"]["bias"], (4, 10)), atol=1e-6
        )
    else:
        with pytest.raises(taps.SiteError, match="'inner' is no site"):
            cut(variables, x)
