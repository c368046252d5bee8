"""Own against later tokens: a derivative's parts by brute force, sorting by distance, and the command line."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import begun
from drawn import started
from experiments.command_line import exiting
from experiments.text import later_tokens, transformer
from experiments.text.later_tokens import EveryPosition, at_one, by_distance, by_position, whole
from neuron_mech import store, taps
from neuron_mech.recording import counting
from neuron_mech.recording.counting import Tally
from places import ROOT

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def promotion():
    """Optax's AdamW raises a float to an integer power, which the tests' strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_a_position_serves_its_own_loss_and_later_ones(lenient):
    """g_jp = sum over q >= p of d loss_q / d a_jp, by a Jacobian in float64; nothing from earlier positions."""
    model, context = EveryPosition(vocabulary=7, depth=2, width=8), 5
    rng = np.random.default_rng(0)
    characters, following = (jnp.asarray(rng.integers(0, 7, (3, context)), jnp.int32) for _ in range(2))
    with jax.enable_x64(True):
        initial = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), started(model, 0, characters))
        sites = taps.select(taps.sites(model, initial, characters), ["*/Dense_0"])

        def losses(perturbations):
            logits = taps.perturbed(model, perturbations, "pre_activation")(initial, characters)
            return jax.nn.softplus(later_tokens.margin(logits, following))

        nudges = {site: jnp.asarray(np.zeros((3, *at.shape))) for site, at in sites.items()}
        single = jax.jit(jax.jacrev(losses))(nudges)  # {site: (3, q, 3, p, neurons)}
        given = {"whole": whole, "one": at_one}
        gradients = jax.jit(
            lambda chosen: taps.activation_gradients(
                model, initial, characters, (following, chosen), nudges, given, "pre_activation", "fast"
            )
        )
        found = [gradients(np.full(3, q)) for q in range(context)]
        first, last = list(sites)
        for site in sites:
            of = np.stack([np.asarray(single[site])[i, :, i] for i in range(3)])  # (samples, q, p, neurons)
            for p in range(context):
                assert not of[:, :p, p].any(), "an earlier loss does not depend on a later position"
            for q in range(context):
                np.testing.assert_allclose(found[q]["whole"][site], of.sum(1), atol=1e-10)
                np.testing.assert_array_equal(np.sign(found[q]["one"][site]), np.sign(of[:, q]))
        ends = np.stack([np.asarray(single[last])[i, :, i] for i in range(3)])
        off = ~np.eye(context, dtype=bool)
        assert not ends[:, off].any(), "after the last attention a position serves its own loss alone"
        assert np.asarray(single[first]).any()


def test_constancy_is_sorted_by_distance():
    rng = np.random.default_rng(1)
    positive, negative = rng.integers(0, 12, (2, 40, 6, 3))
    tally = Tally(*(jnp.asarray(of, jnp.int16) for of in (positive, negative, np.zeros_like(positive))))
    chosen = rng.integers(0, 6, 40)
    for distance, value in enumerate(by_distance(tally, chosen)):
        constant = seen = 0
        for i, q in enumerate(chosen):
            if q - distance < 0:
                continue
            for j in range(3):
                up, down = positive[i, q - distance, j], negative[i, q - distance, j]
                seen += up + down > 0
                constant += up + down > 0 and 10 * abs(up - down) > 9 * (up + down)
        assert value == constant / seen
    at_end = jax.tree.map(lambda leaf: leaf[:, -1], tally)
    expected = counting.constancy(*counting.constant_counts(at_end.positive, at_end.negative))
    assert by_position(tally)[0] == expected


def test_it_runs_from_a_text_to_a_figure(tmp_path, monkeypatch, capsys):
    prose = tmp_path / "prose.txt"
    prose.write_text(re.sub("[^a-z]+", " ", (ROOT / "README.md").read_text(encoding="utf-8").lower()))
    small = ("--depth", "2", "--width", "16", "--context", "6", "--steps", "25", "--batch", "8", "--samples", "20")
    directory = tmp_path / "run"
    arguments = ["x", "--text", str(prose), "--run-dir", str(directory), "--neurons", "9", "--every", "5", *small]
    monkeypatch.setattr(sys, "argv", arguments)
    begun.together(monkeypatch, transformer.Transformer)
    exiting(later_tokens.main)
    found = store.read_dataset(directory / "later_tokens.nc")
    assert list(found.block.values) == ["block 1", "block 2"]
    # The last block's positions serve their own loss alone.
    np.testing.assert_array_equal(np.isfinite(found.one_constancy.values[1]), np.arange(6) == 0)
    assert np.isfinite(found.one_constancy.values[0]).all()
    assert (directory / "figures" / "constancy_by_distance.png").exists()
    assert "loss at one position" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["x", "--text", str(tmp_path / "none.txt")])
    with pytest.raises(SystemExit) as stop:
        exiting(later_tokens.main)
    assert stop.value.code == 2
