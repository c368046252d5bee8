"""The README's ten lines with the network's variables over eight devices, and with fewer samples at some sites."""

import os
import subprocess
import sys

from forking import simulated
from places import ROOT

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import neuron_mech
from neuron_mech.config import Data
from neuron_mech.training import datasets
from drawn import started
from own_models import Plain

digits = datasets.load(Data("digits")).train
images, labels, model = np.asarray(digits.inputs)[:203], np.asarray(digits.labels)[:203], Plain()
start = started(model, 0, images[:1])
batches = np.random.default_rng(0).integers(0, len(labels), (24, 32))

@jax.jit
def train_step(variables, x, y):
    loss = lambda v: optax.softmax_cross_entropy_with_integer_labels(model.apply(v, x), y).mean()
    return jax.tree.map(lambda p, g: p - 0.1 * g, variables, jax.grad(loss)(variables))

def recorded(variables, **more):
    recorder = neuron_mech.recorder(
        model, variables, images, labels, "Dense_[01]", recordings=6, site_samples={"Dense_0": 50}, **more
    )
    for step, ids in enumerate(batches):
        if step % 4 == 0:
            recorder = recorder.update(variables)
        variables = train_step(variables, images[ids], labels[ids])
    return recorder

mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
whole = jax.device_put(start, NamedSharding(mesh, P()))
# Kernels with their columns over one axis of the mesh, as large models have them.
parts = jax.tree.map(
    lambda leaf: jax.device_put(leaf, NamedSharding(mesh, P(*(None,) * (leaf.ndim - 1), "model"))), start
)
one = recorded(start, keep=3)
assert one.design.mesh.size == 1
for variables in (whole, parts):
    many = recorded(variables, keep=3)
    assert many.design.mesh.size == 8
    held = {site: tally.positive.addressable_shards[0].data.shape[0] for site, tally in many.tallies["loss"].items()}
    assert held == {"Dense_0": 7, "Dense_1": 26}, held  # an eighth of 50 and of 203
    assert many.rows.tolist() == one.rows.tolist()
    for site, tally in one.counts().items():
        assert len(tally.positive) == {"Dense_0": 50, "Dense_1": 203}[site]
        other = many.counts()[site]
        for a, b in zip(jax.tree.leaves(tally), jax.tree.leaves(other), strict=True):
            assert (np.asarray(a) != np.asarray(b)).mean() < 2e-3, "the order of a sum"
        np.testing.assert_allclose(one.watched(site)[0], many.watched(site)[0], atol=1e-4)
    again = neuron_mech.recorder(
        model, start, images, labels, "Dense_[01]", recordings=6, site_samples={"Dense_0": 50}, keep=3
    ).restored(many.state)
    for site in ("Dense_0", "Dense_1"):
        np.testing.assert_array_equal(again.average_sign(site), many.average_sign(site))
print("equal")
"""


def test_ten_lines_with_variables_over_eight_devices_and_nested_samples():
    environment = {
        **os.environ,
        **simulated(8),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("equal\n")
