"""Calls that a model cannot take, as newcomers write them: what each is told, before anything is computed."""

import warnings

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import drawn
import neuron_mech
from classifiers import Logits, X, Y, started
from kinds import MASK, SEGMENTS, TOKENS, Attends
from neuron_mech import Inputs
from neuron_mech.errors import InputError
from neuron_mech.taps.programs import explained
from written_out import squared

pytestmark = pytest.mark.usefixtures("lenient")


class Timed(nn.Module):
    """Of an array and a time, as a diffusion network, with statistics of its batches."""

    @nn.compact
    def __call__(self, x, t, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(5, name="hidden")(x) + t[:, None])
        return nn.Dense(3)(nn.relu(x))


T = np.linspace(0, 1, len(X), dtype=np.float32)
BOTH, STILL = Inputs(X, T), {"train": False}


def timed(inputs=BOTH, part=None, **apply):
    variables = drawn.started(Timed(), 0, X, T, False)
    return Timed(), variables if part is None else part(variables), inputs, Y, apply


def noisy(**apply):
    return Logits(), started(Logits()), X, Y, apply


def attends():
    variables = drawn.started(Attends(), 0, TOKENS, SEGMENTS, mask=MASK)
    return Attends(), variables, Inputs(TOKENS, SEGMENTS), TOKENS, {}


CALLS = {
    "a tuple of inputs": (lambda: timed((X, T), **STILL), r"missing 1 required.*'t'.*neuron_mech.Inputs\(x, t\)"),
    "an input left out": (lambda: timed(X, **STILL), r"missing 1 required.*'t'.*neuron_mech.Inputs\(x, t\)"),
    "an argument left out": (timed, r"missing 1 required.*'train'.*apply=\{'train': False\}"),
    "an input by keyword left out": (attends, r"missing 1 required keyword-only argument: 'mask'.*Inputs"),
    "an argument that is none": (lambda: timed(**STILL, training=True), r"unexpected keyword argument 'training'"),
    "too many inputs": (lambda: timed(Inputs(X, T, T, T)), "cannot be called like this"),
    "parameters alone": (lambda: timed(part=lambda v: v["params"], **STILL), r"give what model.apply takes"),
    "parameters without statistics": (
        lambda: timed(part=lambda v: {"params": v["params"]}, **STILL),
        r"such as batch_stats; Flax says: .*batch_stats",
    ),
    "statistics that would change": (lambda: timed(train=True), r"apply=\{'mutable': \['batch_stats'\]\}"),
    "noise without keys": (lambda: noisy(train=True), r"apply=\{'rngs': \{'dropout': key\}\}"),
    "inputs of another shape": (lambda: (*noisy()[:2], np.asarray(X)[:, :5], Y, {}), "inputs of another shape"),
    "labels in a list": (lambda: (*noisy()[:3], [1, 2], {}), r"hold a int: give arrays"),
}


@pytest.mark.parametrize("way", CALLS)
def test_each_is_told_what_to_do(way):
    given, message = CALLS[way]
    model, variables, inputs, labels, apply = given()
    loss = squared if model == Attends() else neuron_mech.margin
    asked = [
        lambda: neuron_mech.recorder(model, variables, inputs, labels, recordings=1, loss=loss, apply=apply),
        lambda: neuron_mech.signs(model, variables, inputs, labels, loss=loss, apply=apply),
    ]
    if not isinstance(labels, list):
        asked += [
            lambda: neuron_mech.sites(model, variables, inputs, apply=apply),
            lambda: neuron_mech.online(model, variables, inputs, samples=24, recordings=1, apply=apply),
        ]
    for ask in asked:
        with pytest.raises(InputError, match=message) as said:
            ask()
        assert "\n" not in str(said.value)


def test_what_is_no_linen_module_is_refused():
    for wrong in (Logits().apply, 3):
        with pytest.raises(InputError, match=r"flax.linen Module itself.*from_nnx"), explained(wrong):
            pass


def test_float64_of_numpy_is_taken_without_a_word():
    x, y = np.asarray(X, np.float64), np.asarray(Y, np.int64)
    model, variables = Logits(), started(Logits())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [*neuron_mech.sites(model, variables, x)] == ["hidden", "out"]
        _, values = neuron_mech.read(model, variables, x, "hidden")
        signs = neuron_mech.signs(model, variables, x, y, "hidden")["hidden"]
        recorder = neuron_mech.recorder(model, variables, x, y, "hidden", recordings=1).update(variables)
    np.testing.assert_allclose(values["hidden"], neuron_mech.read(model, variables, X, "hidden")[1]["hidden"])
    np.testing.assert_array_equal(signs, neuron_mech.signs(model, variables, X, Y, "hidden")["hidden"])
    np.testing.assert_array_equal(np.nan_to_num(recorder.average_sign("hidden")), signs)


def test_an_error_of_the_model_s_own_is_left_as_it_is():
    class Broken(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.dot(x)

    with pytest.raises(TypeError, match=r"dot\(\) missing 1 required positional argument"):
        neuron_mech.sites(Broken(), {}, X)


def test_a_keyword_of_the_model_s_is_told_where_it_goes():
    for of in (neuron_mech.recorder, neuron_mech.signs):
        name = of.__name__
        with pytest.raises(TypeError, match=rf"{name} has no argument 'train': .*apply=\{{'train': ...\}}"):
            of(Logits(), started(Logits()), X, Y, train=False)
        with pytest.raises(TypeError, match=rf"{name} has no argument 'los': did you mean 'loss'\?"):
            of(Logits(), started(Logits()), X, Y, los=None)


def test_an_online_recorder_of_no_recordings_is_refused():
    with pytest.raises(InputError, match="recordings=0"):
        neuron_mech.online(Logits(), started(Logits()), X, samples=24, recordings=0)
