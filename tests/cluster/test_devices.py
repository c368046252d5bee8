"""Several devices against one: eight simulated ones, in a process of their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forking import run, simulated
from neuron_mech.cluster import devices

pytestmark = pytest.mark.long


@given(st.integers(1, 60), st.integers(1, 9))
def test_every_row_is_on_a_device_and_comes_back_in_order(count, several):
    order = devices.dealt(count, several)
    assert len(order) == several * devices.share(count, several)
    assert set(order) == set(range(count))
    # Of the first `fewer` rows each device holds those it has been dealt first: smaller choices are nested.
    for fewer in range(1, count):
        few = devices.dealt(fewer, several).reshape(several, -1)
        own = order.reshape(several, -1)[:, : few.shape[1]]
        assert (few == own)[own < fewer].all()
    where = np.arange(count) % several * devices.share(count, several) + np.arange(count) // several
    np.testing.assert_array_equal(order[where], np.arange(count))


EIGHT = '''
import sys
from dataclasses import replace
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from neuron_mech import runs, store
from neuron_mech.cluster import devices
from neuron_mech.runs import loop, planning
from neuron_mech.runs import study as studies
from neuron_mech.training import datasets
from neuron_mech.config import Config, Data, Model, Record, Train, Watch

assert jax.local_device_count() == 8
digits = datasets.load(Data("digits"))
digits = replace(digits, train=digits.train.rows(jnp.arange(96)), test=digits.test.rows(jnp.arange(60)))
record = Record(every=3, samples=37, chunk=3)
dense = Config("digits", model=Model(width=1 / 32), train=Train(batch_size=16, epochs=2), record=record,
               watch=Watch(recordings=2, wide_recordings=2, samples=20, wide_samples=20))
dense = replace(dense, record=replace(record, site_samples=("dense1:13",)))
# A step size at which the order of a sum does not grow from step to step.
cnn = replace(
    dense,
    model=Model(network="cnn", depth=1, dropout=None, width=1 / 32),
    train=replace(dense.train, learning_rate=0.001),
    record=replace(record, sites=("stage0layer0", "stage3layer0"), site_samples=("stage0layer0:13",)),
)

def one_recording(study, state):
    """A recording of the first segment, without its steps."""
    recorder, mesh = studies.recorder(study), study.design.mesh
    state, train = (devices.replicate(jax.tree.map(jnp.copy, part), mesh) for part in (state, digits.train))
    losses = []
    for ids, rest in runs.plan_epoch(study, 0):
        state, recorder, loss = runs.advancing(study)(state, recorder, train, ids, rest)
        losses.append(np.asarray(loss))
        if study.config.record.mode == "eval":
            break
    if study.config.record.mode == "online":
        recorder = recorder.end_epoch()
    held = [a.addressable_shards[0].data.shape[0] for a in jax.tree.leaves(recorder.tallies)]
    return studies.tallies(study, recorder.state), np.concatenate(losses), held, state

for config in (dense, cnn, replace(dense, record=replace(dense.record, mode="online"))):
    eight, state = planning.study(config, digits)
    assert eight.design.mesh.size == 8
    found, losses, held, after = one_recording(eight, state)
    alone = replace(eight.plan, design=replace(eight.design, mesh=devices.alone()))
    ours, expected, _, one = one_recording(replace(eight, plan=alone), state)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(one.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(ours), strict=True):
        assert np.asarray(a).shape == np.asarray(b).shape
        assert (np.asarray(a) != np.asarray(b)).mean() < 2e-3, "the order of a sum"
    if config.record.mode == "eval":
        assert held == sorted(held) == [2] * 4 + [5] * 4  # 13 and 37 rows among eight

directory = Path(sys.argv[1])
with store.opened(directory, dense):
    loop.datasets.load = lambda *_: digits
    first = runs.run(dense, directory, save_seconds=0.0)
    again = runs.run(dense, directory)  # as it was saved: in the order of one device
for a, b in zip(jax.tree.leaves(first.tallies), jax.tree.leaves(again.tallies), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
assert [t.positive.shape[0] for t in first.tallies["margin"].values()] == [13, 37]
print("equal")
'''


def test_eight_devices_record_and_train_as_one_does(tmp_path):
    """Each holds its own samples' tally only; a recording is the same, a run is saved as one device would."""
    done = run("-c", EIGHT, tmp_path / "run", env=simulated(8))
    assert done.returncode == 0, done.err[-3000:]
    assert done.out.endswith("equal\n")
