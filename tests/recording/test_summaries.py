"""Datasets of several sites: average signs of single samples against a loop, samples that one site alone records."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest
from sklearn import metrics

from neuron_mech import store
from neuron_mech.paper import figures
from neuron_mech.paper.figures import watching
from neuron_mech.recording import counting, separation, summaries
from neuron_mech.recording.summaries import Recorded

IDS, LABELS = np.array([40, 7, 3, 99, 12], np.int32), np.array([0, 1, 1, 2, 0])


def by_hand(signs):
    """Hundredths of the average of a list of signs, zeros left out, rounded away from zero; None where all are zero."""
    seen = [int(sign) for sign in signs if sign]
    if not seen:
        return None
    average = Fraction(100 * sum(seen), len(seen))
    return math.ceil(average) if average > 0 else math.floor(average)


update = jax.jit(counting.update)


def recorded(history, neurons):
    """What was recorded at a site, from its signs: (recordings, samples, positions ..., neurons)."""
    tally = counting.empty(history.shape[1:], len(history))
    for signs in history:
        tally = update(tally, signs)
    return Recorded(tally, np.asarray(neurons), "")


@pytest.fixture
def histories():
    """A site of three neurons, and one with 2 x 2 positions that records the first three samples only."""
    rng = np.random.default_rng(0)
    flat = rng.choice([-1, 0, 1], (37, 5, 3), p=[0.6, 0.1, 0.3])
    flat[:, 1, 2], flat[:-1, 2, 0], flat[-1, 2, 0] = 0, 1, -1  # no sign at all, and all but one
    flat[:19, 0, 0], flat[19:, 0, 0] = 1, -1  # one more up than down: 1/37 is not 0
    return {"late": flat, "a/early": rng.choice([-1, 0, 1], (37, 3, 2, 2, 4), p=[0.02, 0.5, 0.48])}


def test_every_pair_s_average_sign_is_what_a_loop_finds_and_survives_the_disk(histories, tmp_path):
    neurons = {"late": [1, 5, 6], "a/early": [0, 2, 3, 7]}
    of = {site: recorded(history, neurons[site]) for site, history in histories.items()}
    made = summaries.of_average_signs(of, IDS, LABELS, np.random.default_rng(0))
    store.write_dataset(tmp_path / "average_signs.nc", made)
    stored = store.read_dataset(tmp_path / "average_signs.nc")
    assert stored.average_sign.dtype == np.float32
    np.testing.assert_array_equal(stored.average_sign, made.average_sign)
    for found in (made, stored):
        assert found.attrs["holds"] == "all: 5 of 5 recorded samples and 7 of 7 recorded neurons"
        assert found.sample.values.tolist() == IDS.tolist()
        assert found.label.values.tolist() == LABELS.tolist()
        for site, history in histories.items():
            for column, neuron in enumerate(neurons[site]):
                at = found.average_sign.sel(neuron_site=site, neuron_index=neuron)
                for row, sample in enumerate(IDS):
                    there = row < history.shape[1]
                    expected = by_hand(history[:, row, ..., column].ravel()) if there else None
                    value = at.sel(sample=sample).item()
                    assert np.isnan(value) if expected is None else round(100 * value, 4) == expected, (site, row)
    # "Which images does neuron 5 of late push down?" and the two thresholds are exact.
    at = found.average_sign.sel(neuron_site="late", neuron_index=5)
    assert at.sample[at > 0].values.tolist() == [
        int(IDS[row]) for row in range(5) if histories["late"][:, row, 1].sum() > 0
    ]
    late = of["late"].tally
    constant = np.asarray(jax.jit(counting.constant_counts)(late.positive, late.negative)[0])
    np.testing.assert_array_equal((abs(found.average_sign.sel(neuron_site="late")) > 0.9).sum("sample"), constant)


def test_where_there_are_too_many_equal_shares_are_kept_and_that_is_said(histories):
    of = {site: recorded(history, range(history.shape[-1])) for site, history in histories.items()}
    whole = summaries.of_average_signs(of, IDS, LABELS, np.random.default_rng(0))
    part = summaries.of_average_signs(of, IDS, LABELS, np.random.default_rng(0), largest=14)
    assert part.average_sign.size <= 14
    assert part.sample.values.tolist() == IDS[: part.sizes["sample"]].tolist()
    assert part.attrs["holds"] == "3 of 5 recorded samples and 3 of 7 recorded neurons"
    assert set(part.neuron_site.values) == set(histories)
    for site, index in part.neuron.values:
        at = {"neuron_site": site, "neuron_index": index, "sample": part.sample.values}
        np.testing.assert_array_equal(part.average_sign.sel(at), whole.average_sign.sel(at))


def test_a_site_that_records_fewer_samples_has_its_own_in_learning_dynamics(tmp_path):
    rng = np.random.default_rng(0)
    values = {"late": rng.normal(size=(3, 40, 2)), "early": rng.normal(size=(3, 25, 1))}
    category = {site: rng.choice([-1, 0, 1], of.shape[1:]).astype(np.int8) for site, of in values.items()}
    neurons = {"late": np.array([4, 9]), "early": np.array([2])}
    wide, close = [], []
    for site, of in values.items():
        wide.append(separation.of_separation(site, neurons[site], of, category[site], rng))
        close.append(separation.of_watched(site, neurons[site], of, category[site], 40))
    coords = {"site": list(values), "label": ("site", ["late-relu", "early-relu"]), "close_sample": np.arange(40) * 7}
    coords |= {"wide_epoch": [0, 1, 2], "close_epoch": [0, 1, 2]}
    made = separation.of_dynamics(wide, close, coords, np.arange(40) % 10).assign_attrs(epochs=2)
    store.write_dataset(tmp_path / "learning_dynamics.nc", made)
    found = store.read_dataset(tmp_path / "learning_dynamics.nc")
    assert np.isnan(found.pre_activation.sel(close_neuron_site="early")[:, 25:]).all()
    for site, of in values.items():
        at = watching.watched(found, site)
        np.testing.assert_array_equal(at.pre_activation, of)
        np.testing.assert_array_equal(at.category, category[site])
        assert at.close_sample.values.tolist() == [7 * row for row in range(of.shape[1])]
        assert at.close_neuron_index.values.tolist() == neurons[site].tolist()
        pairs = zip(category[site].T, of[-1].T, strict=True)
        end = [metrics.roc_auc_score(kind[kind != 0] < 0, of_one[kind != 0]) for kind, of_one in pairs]
        np.testing.assert_allclose(at.watched_auc[-1], end, rtol=1e-6)
        np.testing.assert_allclose(found.auc.sel(partition="own", neuron_site=site)[-1], end, rtol=1e-6)
        assert float(found.separation.sel(site=site)) == pytest.approx(np.mean(end))
    figures.dynamics(found, [("late", 1), ("early", 0)]).draw_without_rendering()
    bare = separation.of_dynamics(wide, [], coords, np.zeros(0))
    assert not {"close_sample", "close_neuron", "pre_activation"} & {*bare.dims, *bare.variables}
