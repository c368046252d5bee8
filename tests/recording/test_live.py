"""A live view writes what the recorder counted, in TensorBoard's own format."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import neuron_mech
from live_events import events
from neuron_mech.errors import InputError

pytestmark = pytest.mark.usefixtures("lenient")


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(7)(x)))


def test_it_writes_what_the_recorder_counted(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra live is not installed")
    x = jax.random.normal(jax.random.key(0), (40, 5))
    y = jnp.argmax(x[:, :3], 1)
    model = Net()
    recorder = neuron_mech.recorder(model, model.init(jax.random.key(1), x), x, y, "Dense_0", recordings=4)
    with neuron_mech.LiveView(tmp_path) as live:
        for step in range(4):
            recorder = recorder.update(model.init(jax.random.key(step), x))
            live(10 * step, recorder, loss=jnp.float32(step / 2))
    found = events(tmp_path)
    assert [(step, round(value, 3)) for step, value in found["loss"]] == [(0, 0.0), (10, 0.5), (20, 1.0), (30, 1.5)]
    assert found["constancy/Dense_0"][-1] == (30, pytest.approx(recorder.constancy()["Dense_0"]))
    step, histogram = found["average_sign/Dense_0"][-1]
    average = np.asarray(recorder.average_sign("Dense_0"))
    average = average[~np.isnan(average)]
    assert step == 30
    assert histogram.num == average.size
    assert sum(histogram.bucket) == average.size
    top = histogram.bucket[list(histogram.bucket_limit).index(1.0)]
    assert top == (average > 0.9).sum()


def test_without_the_extra_it_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"needs tensorboardX: pip install 'neuron_mech\[live\]'"):
        neuron_mech.LiveView(tmp_path)
