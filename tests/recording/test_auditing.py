"""Signs as computed against double precision."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import oracles
from drawn import started
from experiments import gradient_signs as experiment
from neuron_mech import taps
from neuron_mech.config import Model
from neuron_mech.recording import auditing
from neuron_mech.taps.objectives import OBJECTIVES
from neuron_mech.training import models


@pytest.fixture(scope="module")
def confident(digits):
    """A network so sure of its answers that float32's cross-entropy has lost them, and some samples."""
    model = models.build(Model(width=1 / 16), classes=10)
    some = digits.train.rows(np.arange(50))  # more than two chunks of 20
    variables = started(model, 1, some.inputs)
    variables["params"]["logits"]["kernel"] = 120 * np.asarray(variables["params"]["logits"]["kernel"])
    answers = lambda *given: model.apply(*given).argmax(-1).astype(jnp.int32)  # noqa: E731
    # Its own answers as labels: it is right, and sure of it.
    return model, variables, some.replace(labels=jax.jit(answers)(variables, some.inputs))


@pytest.fixture(scope="module")
def health(confident):
    """{site: SignHealth} of each objective, by derivative."""
    return cache(partial(measured, *confident))


def measured(model, variables, some, derivative="activation"):
    sites = taps.select(taps.sites(model, variables, some.inputs), ("all",))
    return auditing.sign_health(
        model,
        variables,
        some.inputs,
        some.labels,
        sites,
        {name: OBJECTIVES[name] for name in ("margin", "cross_entropy", "keras2017")},
        OBJECTIVES["margin"],
        derivative,
    )


@pytest.mark.parametrize("derivative", ["activation", "pre_activation"])
def test_shares_are_those_of_the_chain_rule_by_hand(confident, health, derivative):
    model, variables, some = confident
    found = health(derivative)
    by_hand = oracles.MLP(variables["params"], "relu")
    inputs, labels = np.asarray(some.inputs), np.asarray(some.labels)
    true = [by_hand.margin_gradients(x, int(y))[derivative] for x, y in zip(inputs, labels, strict=True)]
    sites = taps.select(taps.sites(model, variables, some.inputs), ("all",))
    names = ("margin", "cross_entropy", "keras2017")

    @jax.jit
    def gradients(*given):
        return taps.per_sample_gradients(model, *given, sites, {name: OBJECTIVES[name] for name in names}, derivative)

    computed = gradients(variables, some.inputs, some.labels)
    for name in names:
        for site in sites:
            sign, seen = np.sign([t[site] for t in true]), np.sign(np.asarray(computed[name][site]))
            wrong, zeroed = (sign * seen < 0).sum(), ((seen == 0) & (sign != 0)).sum()
            # Compiled and by hand, a float32 sum may round differently: one pair in thousands.
            assert found[name][site].wrong == pytest.approx(wrong / (sign != 0).sum(), abs=2e-3)
            assert found[name][site].zeroed == pytest.approx(zeroed / (sign != 0).sum(), abs=2e-3)


def test_the_margin_is_healthy_where_the_cross_entropy_is_not(health):
    found = health("activation")
    for site in ("dense1", "dense2"):
        assert found["margin"][site].wrong < 1e-3
        assert found["margin"][site].zeroed == 0
        assert found["cross_entropy"][site].wrong + found["cross_entropy"][site].zeroed > 0.02
        assert found["keras2017"][site].zeroed > 0.1


def test_the_audit_leaves_single_precision_as_the_default(confident):
    measured(*confident)
    assert jnp.ones(1).dtype == jnp.float32


def test_too_many_wrong_signs_are_warned_of():
    signs = xr.Dataset(
        {"wrong_sign": (("objective", "site"), [[0.0009, 0.019], [0.0, np.nan]])},
        {"objective": ["margin", "cross_entropy"], "site": ["dense1", "dense2"]},
        {"precision": "fast"},
    )
    (line,) = experiment.untrusted(signs)
    assert line == (
        "warning: 1.90% of the signs at dense2 (margin) are wrong in this arithmetic, at the end: "
        "record.precision exact has exact signs"
    )
    assert "record.objective margin" in experiment.untrusted(signs.assign_attrs(precision="exact"))[0]
