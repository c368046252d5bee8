"""Twenty ways of holding a recorder wrong, and what each is told; what a plan foretells."""

import re
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import neuron_mech
from drawn import started
from neuron_mech import SignHealthWarning, taps
from neuron_mech.taps.objectives import margin
from own_models import Plain

pytestmark = pytest.mark.usefixtures("lenient")
model = Plain()


@pytest.fixture(scope="module")
def data(digits):
    x, y = np.asarray(digits.train.inputs)[:200], np.asarray(digits.train.labels)[:200]
    return started(model, 0, x[:1]), x, y


def test_a_loss_whose_signs_float32_loses_is_called_out(data):
    variables, x, _ = data
    sure = jax.tree.map(lambda p: 40 * np.asarray(p), variables)
    y = np.asarray(jax.jit(model.apply)(sure, x)).argmax(-1).astype(np.int32)  # of which it is sure, and right
    with pytest.warns(SignHealthWarning, match=r"are wrong and .* are lost.*loss=margin"):
        neuron_mech.recorder(
            *(model, sure, x, y, "Dense_1"), recordings=1, loss=optax.softmax_cross_entropy_with_integer_labels
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neuron_mech.recorder(model, sure, x, y, "Dense_1", recordings=1)


def test_the_plan_says_what_it_costs_and_what_would_fit(data):
    variables, x, y = data
    plan = neuron_mech.plan(model, variables, x, y, "Dense_[01]", recordings=100)
    assert plan.counts == 3 * 200 * 32 + 4 * 200 * 2
    assert plan.counts == sum(leaf.nbytes for leaf in jax.tree.leaves(plan.recorder().tallies))
    assert plan.samples == x.nbytes + y.nbytes
    assert "100 recordings of Dense_0 (200 samples x 16 values)" in str(plan)
    assert 0 < plan.seconds() < 60
    budget = plan.device // 2
    fit = plan.samples_within(budget)
    smaller = neuron_mech.plan(
        model, variables, x, y, "Dense_[01]", recordings=100, samples=fit, budget=budget, mixing="alone"
    )
    assert smaller.device <= budget
    with pytest.raises(ValueError, match=rf"budget={budget}.*samples={fit} would fit"):
        neuron_mech.plan(model, variables, x, y, "Dense_[01]", recordings=100, budget=budget)


def record(data, names="Dense_1", inputs=None, labels=None, **changes):
    variables, x, y = data
    inputs, labels = (x if inputs is None else inputs), (y if labels is None else labels)
    # Whether samples mix is not looked for each time.
    return neuron_mech.recorder(
        model, variables, inputs, labels, names, **{"recordings": 2, "mixing": "alone"} | changes
    )


WRONG = {
    "a name that is none": (lambda d: record(d, "Dens_1"), "'Dens_1' is no site; did you mean 'Dense_1'"),
    "a regular expression that fits nothing": (lambda d: record(d, re.compile("conv.*")), r"'conv.\*' is no site"),
    "inputs and labels of different sizes": (lambda d: record(d, labels=d[2][:50]), "batch as first axis"),
    "no samples": (lambda d: record(d, inputs=d[1][:0], labels=d[2][:0]), "hold no sample: give one at least"),
    "values of no samples": (lambda d: neuron_mech.read(model, d[0], d[1][:0]), "hold no sample: give one at least"),
    "no sites": (lambda d: record(d, []), "names is empty: name a site at least"),
    "labels as floats": (lambda d: record(d, labels=d[2].astype(np.float32)), "class labels are integers"),
    "a loss that is a mean": (lambda d: record(d, loss=lambda o, y: margin(o, y).mean()), "before .mean"),
    "a loss of each output": (lambda d: record(d, loss=lambda o, y: o), r"\[32, 10\] for 32 samples"),
    "a loss that cannot take them": (lambda d: record(d, loss=lambda o, y: o["logits"]), "loss cannot take"),
    "a share above one": (lambda d: record(d, samples=1.5), "share between 0.0 and 1.0"),
    "a sample that is not there": (lambda d: record(d, samples=[3, 200]), "samples has index 200, but there are 200"),
    "a neuron twice": (lambda d: record(d, neurons=[1, 3, 3]), "neurons has index 3 2 times: name each once"),
    "a mask of another size": (lambda d: record(d, samples=np.ones(7, bool)), r"samples is bool\[7\].*a mask of 200"),
    "a yes in the place of a number": (lambda d: record(d, samples=True), "samples=True: give a count"),
    "two edits of a site": (
        lambda d: neuron_mech.replace(model, {"Dense_1": jnp.negative, "Dense_*": jnp.zeros_like})(d[0], d[1]),
        r"'Dense_1' has two edits, the second by 'Dense_\*'",
    ),
    "none of them": (lambda d: record(d, samples=[]), "at least one"),
    "no recordings": (lambda d: record(d, recordings=0), "recordings=0"),
    "an activation that is out of reach": (
        lambda d: record(d, derivative="activation"),
        "derivative='activation', but 'Dense_1' is no activation function: leave derivative out",
    ),
    "another network's variables": (
        lambda d: record(d).update(started(Plain(8), 0, d[1][:1])),
        r"bias'\] is \[8\], was \[16\]",
    ),
    "parameters alone": (lambda d: record(d).update(d[0]["params"]), r"pass what model.apply takes"),
    "more recordings than were announced": (
        lambda d: record(d, recordings=1).update(d[0]).update(d[0]),
        "recordings=1: its counts would overflow",
    ),
    "more of them in secret, under jit": (
        lambda d: jax.jit(neuron_mech.Recorder.update)(record(d, recordings=1).update(d[0]), d[0]).constancy(),
        "recordings=1: its counts would overflow",
    ),
    "labels of no class": (
        lambda d: record(d, loss=lambda o, y: o.sum(-1), labels=d[2].astype(np.float32), audit=False).classes(10),
        "one class index for each",
    ),
    "dynamics of nothing kept": (lambda d: record(d).dynamics(), "keep=40"),
    "ids of another batch": (
        lambda d: (r := neuron_mech.online(model, d[0], d[1][:4], "Dense_1", samples=200, recordings=2)).saw(
            r.perturbations(8), np.arange(9)
        ),
        "9 ids came with them",
    ),
    "more samples than there is room for": (
        lambda d: neuron_mech.online(model, d[0], d[1][:4], "Dense_1", samples=10**12, recordings=2),
        r"need \d+.\d GB on the device and .* are free: name fewer sites",
    ),
    "an epoch without an end": (
        lambda d: (
            (r := neuron_mech.online(model, d[0], d[1][:4], "Dense_1", samples=200, recordings=2, room=10))
            .saw(r.perturbations(8), np.arange(8))
            .saw(r.perturbations(8), np.arange(8))
            .end_epoch()
        ),
        "16 samples came .* room for 10",
    ),
    "an id that is none": (
        lambda d: (
            (r := neuron_mech.online(model, d[0], d[1][:4], "Dense_1", samples=200, recordings=2))
            .saw(r.perturbations(2), np.array([3, 200]))
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

    x = np.ones((4, 3), np.float32)
    variables = started(Compiled(), 0, x)
    Compiled().apply(variables, x)
    found = neuron_mech.sites(Compiled(), variables, x)
    cut = neuron_mech.replace(Compiled(), {"inner": jnp.zeros_like})
    if "inner" in found:
        np.testing.assert_allclose(
            jax.jit(cut)(variables, x), np.broadcast_to(variables["params"]["Dense_0"]["bias"], (4, 10)), atol=1e-6
        )
    else:
        with pytest.raises(taps.SiteError, match="'inner' is no site"):
            cut(variables, x)


class Nested(nn.Module):
    first: str
    second: str

    @nn.compact
    def __call__(self, x):
        for name in (self.first, self.second):
            *outer, layer = name.split("/")
            x = nn.relu(Inner(layer, name=outer[0])(x) if outer else nn.Dense(6, name=layer)(x))
        return nn.Dense(3, name="out")(x)


class Inner(nn.Module):
    layer: str

    @nn.compact
    def __call__(self, x):
        return nn.Dense(6, name=self.layer)(x)


@pytest.mark.parametrize(("first", "second"), [("a/b", "a.b"), ("hidden", "constancy_hidden")])
def test_sites_of_any_names_stay_apart_in_datasets(first, second):
    model, x, y = Nested(first, second), np.ones((8, 5), np.float32), np.arange(8, dtype=np.int32) % 3
    variables = started(model, 0, x)
    recorder = neuron_mech.recorder(model, variables, x, y, recordings=1).update(variables)
    found = recorder.signs()
    assert list(found.site.values) == list(recorder.counts())
    assert set(found.site.values) == {first, second, "out"}
    for site, tally in recorder.counts().items():
        low = (np.asarray(tally.positive) > np.asarray(tally.negative)).sum(0)
        ever = (np.asarray(tally.recorded) > 0).sum(0)
        share = low / np.where(ever, ever, np.nan)
        np.testing.assert_allclose(found.neuron_low_share.sel(neuron_site=site), share)
