"""What the commands ask of the compiler, and of JAX's products, whatever the environment says."""

import jax
import jax.numpy as jnp
import pytest

from neuron_mech.cluster import devices
from neuron_mech.precision import multiplying
from neuron_mech.runs import costs


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "--xla_gpu_deterministic_ops=true"),
        ("--xla_dump_to=x", "--xla_dump_to=x --xla_gpu_deterministic_ops=true"),
        ("--xla_gpu_deterministic_ops=false", "--xla_gpu_deterministic_ops=false"),
    ],
)
def test_operations_are_deterministic_unless_it_is_said_otherwise(before, after, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", before)
    devices.deterministic()
    assert devices.os.environ["XLA_FLAGS"] == after


def test_training_multiplies_as_its_field_says_whatever_jax_is_told():
    with jax.default_matmul_precision("bfloat16"):
        for arithmetic, said in (("default", "DEFAULT"), ("float32", "HIGHEST")):
            with multiplying(arithmetic):
                program = str(jax.make_jaxpr(jnp.matmul)(jnp.ones((2, 2)), jnp.ones((2, 2))))
            assert f"Precision.{said}" in program


def test_what_training_is_computed_in_is_said(monkeypatch):
    for backend, word in (("cpu", "float32"), ("gpu", "TF32"), ("tpu", "bfloat16")):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert costs.arithmetic("default") == word
        assert costs.arithmetic("float32") == "float32"
