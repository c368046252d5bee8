"""Recorders that are put together, or go on from a saved state: of the same things, and with room for what comes."""

import jax
import numpy as np
import pytest

import neuron_mech
from classifiers import Logits, X, Y, started
from neuron_mech.errors import InputError

pytestmark = pytest.mark.usefixtures("lenient")
MODEL = Logits()
saw = jax.jit(neuron_mech.Online.saw)


@pytest.fixture(scope="module")
def variables():
    return started(MODEL)


def record(variables, labels=Y, x=X, names="hidden", **changes):
    return neuron_mech.recorder(MODEL, variables, x, labels, names, **{"recordings": 2, "mixing": "alone", **changes})


def online(variables, **changes):
    return neuron_mech.online(MODEL, variables, X[:4], "hidden", samples=24, **{"recordings": 2, **changes})


def test_a_saved_recorder_with_more_to_come_counts_on_in_a_larger_type(variables):
    hundred = jax.jit(lambda recorder: jax.lax.fori_loop(0, 100, lambda _, at: at.update(variables), recorder))
    recorder = hundred(record(variables, recordings=100))
    longer = hundred(record(variables, recordings=200).restored(recorder.state))
    sign = np.asarray(neuron_mech.signs(MODEL, variables, X, Y, "hidden")["hidden"])
    tally = longer.counts()["hidden"]
    np.testing.assert_array_equal(tally.positive, 200 * (sign > 0))  # as bytes, 200 would be -56
    np.testing.assert_array_equal(tally.negative, 200 * (sign < 0))
    assert not np.any(tally.flips)
    with pytest.raises(InputError, match="100 recordings, but the recorder was made for recordings=99"):
        record(variables, recordings=99).restored(recorder.state)


def test_a_saved_online_recorder_with_more_to_come_counts_on_in_a_larger_type(variables):
    hundred = lambda at: saw(at, {"hidden": np.ones((2400, 12), np.float32)}, np.tile(np.arange(24), 100)).end_epoch()  # noqa: E731
    saved = hundred(online(variables, recordings=100, room=2400)).state
    tally = hundred(online(variables, recordings=200, room=2400).restored(saved)).counts()["hidden"]
    np.testing.assert_array_equal(tally.positive, np.full((24, 12), 200))
    with pytest.raises(InputError, match="other samples"):
        online(variables, counted=10, seed=1).restored(online(variables, counted=10, seed=0).state)
    with pytest.raises(InputError, match="other room"):
        online(variables, room=50).restored(online(variables, room=60).state)


def test_kept_pre_activations_are_those_of_the_recordings_that_were_kept(variables):
    saved = record(variables, recordings=10, keep=2).update(variables).state
    record(variables, recordings=10, keep=2).restored(saved)
    with pytest.raises(InputError, match="keep= and recordings="):
        record(variables, recordings=20, keep=2).restored(saved)


OTHERS = {
    "neurons": ({"neurons": 4, "seed": 0}, {"neurons": 4, "seed": 1}),
    "derivative": ({"names": ":relu"}, {"names": ":relu", "derivative": "pre_activation"}),
    "losses": ({}, {"loss": {"margin": neuron_mech.margin}}),
    "sites": ({}, {"names": ["hidden", "out"]}),
}


@pytest.mark.parametrize("what", OTHERS)
def test_recorders_of_other_things_are_not_put_together(variables, what):
    one, other = (record(variables, **changes) for changes in OTHERS[what])
    with pytest.raises(InputError, match=rf"one after the other .* these have other {what}"):
        one.followed_by(other)
    one, other = (
        record(variables, samples=rows, **changes)
        for rows, changes in zip((range(10), range(10, 24)), OTHERS[what], strict=True)
    )
    with pytest.raises(InputError, match=rf"side by side .* these have other {what}"):
        one.beside(other)


def test_stretches_of_other_samples_are_not_put_together(variables):
    one = record(variables)
    for other in (
        record(variables, (np.asarray(Y) + 1) % 3),
        record(variables, x=np.asarray(X) + 1),
        record(variables, samples=12),
    ):
        with pytest.raises(InputError, match="the same samples, inputs and labels, only"):
            one.followed_by(other)


@pytest.mark.parametrize("ids", [[0, 1, 2, -1], [0, 1, 77, 3], [-5, 1, 2, 77]])
@pytest.mark.parametrize("counted", [None, 10])
def test_an_id_that_is_none_is_refused_whatever_comes_after_it(variables, ids, counted):
    recorder = online(variables, recordings=3, counted=counted)
    ones = {"hidden": np.ones((4, 12), np.float32)}
    recorder = saw(saw(recorder, ones, np.asarray(ids)), ones, np.arange(4))
    wrong = next(i for i in ids if not 0 <= i < 24)
    with pytest.raises(InputError, match=f"sample {wrong} came"):
        jax.block_until_ready(recorder).end_epoch()
