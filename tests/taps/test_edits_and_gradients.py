"""Read, differentiate, replace: on our networks, on stock ones, and where it must be refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles
from neuron_mech import taps
from neuron_mech.taps import SiteError, sample_mixing
from neuron_mech.taps.objectives import OBJECTIVES, margin
from neuron_mech.training.models import MLP, Neurons

KEY = jax.random.key(0)


class StockMLP(nn.Module):
    """As anyone would write it: nothing in it knows of sites."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(16)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(nn.relu(nn.Dense(12)(x)))


class StockCNN(nn.Module):
    norm: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(6, (3, 3))(x))
        return nn.Dense(10)(x.mean((1, 2)))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return Neurons(name="neurons")(nn.Dense(6, name="affine")(x)), None


class Wrapped(nn.Module):
    """A stack under nn.scan, with or without an axis for intermediates, or one layer under remat or jit."""

    wrap: str = "scan"

    @nn.compact
    def __call__(self, x):
        if self.wrap == "remat":
            x, _ = nn.remat(Layer)(name="layers")(x)
        elif self.wrap == "jit":
            x, _ = nn.jit(Layer)(name="layers")(x)
        elif self.wrap == "vmap":
            x, _ = nn.vmap(Layer, variable_axes={"params": None}, split_rngs={"params": False})(name="layers")(x)
        else:
            axes = {"params": 0} | ({"intermediates": 0} if self.wrap == "scan with axis" else {})
            x, _ = nn.scan(Layer, variable_axes=axes, split_rngs={"params": True}, length=3)(name="layers")(x, None)
        return nn.Dense(10, name="logits")(x)


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        neurons = Neurons(name="shared")
        return nn.Dense(10)(neurons(nn.Dense(8)(neurons(nn.Dense(8)(x)))))


def batch(*shape, classes=10):
    x = jax.random.normal(jax.random.key(1), shape)
    return x, jax.random.randint(jax.random.key(2), shape[:1], 0, classes)


def initialised(model, x):
    return {"params": model.init(KEY, x)["params"]}


# --- Sites ------------------------------------------------------------------------------------------------------------


def test_sites_of_our_network_are_listed_with_shapes_before_anything_runs():
    model = MLP(neurons=16)
    x, _ = batch(3, 8, 8, 1)
    found = taps.sites(model, initialised(model, x), x)
    assert {n: (s.kind, s.shape) for n, s in found.items() if s.kind == "Neurons"} == {
        "dense1": ("Neurons", (16,)),
        "dense2": ("Neurons", (16,)),
    }
    assert list(taps.select(found, ("all",))) == ["dense1", "dense2"]


def test_sites_of_an_unedited_network():
    model = StockCNN()
    x, _ = batch(3, 8, 8, 1)
    found = taps.sites(model, initialised(model, x), x)
    assert {n: s.shape for n, s in found.items()} == {"Conv_0": (8, 8, 4), "Conv_1": (4, 4, 6), "Dense_0": (10,)}


def test_an_unknown_site_names_the_nearest_and_the_others():
    model = MLP()
    x, _ = batch(3, 8, 8, 1)
    with pytest.raises(SiteError, match=r"'dense3' is no site; did you mean 'dense\d'\? sites are: .*dense1"):
        taps.select(taps.sites(model, initialised(model, x), x), ("dense3",))


@pytest.mark.parametrize(
    ("model", "site", "message"),
    [
        (Wrapped("scan"), "layers/neurons", r"used 3 times.*'layers/neurons@0' to 'layers/neurons@2'"),
        (Wrapped("scan with axis"), "layers/neurons", r"used 3 times.*'layers/neurons@0' to 'layers/neurons@2'"),
        (Twice(), "shared", r"used 2 times.*'shared@0' to 'shared@1', or all of them, 'shared@\*'"),
    ],
)
def test_a_site_without_a_single_value_is_refused_with_what_to_do(model, site, message):
    x, _ = batch(5, 6)
    found = taps.sites(model, initialised(model, x), x)
    with pytest.raises(SiteError, match=message):
        taps.select(found, (site,))


# --- Read -------------------------------------------------------------------------------------------------------------


def test_read_gives_pre_activations_as_computed_by_hand():
    model = MLP(neurons=16)
    x, _ = batch(4, 8, 8, 1)
    variables = initialised(model, x)
    logits, values = taps.read(model, variables, x, ("dense1", "dense2"))
    oracle = oracles.MLP(variables["params"], "relu")
    for i in range(4):
        (z1, z2), by_hand = oracle.forward(np.asarray(x[i]))
        np.testing.assert_allclose(values["dense1"][i], z1, atol=1e-5)
        np.testing.assert_allclose(values["dense2"][i], z2, atol=1e-5)
        np.testing.assert_allclose(logits[i], by_hand, atol=1e-5)


def test_read_of_an_unedited_network_gives_its_layers_outputs():
    model = StockMLP()
    x, _ = batch(4, 8, 8, 1)
    variables = initialised(model, x)
    params = variables["params"]
    logits, values = taps.read(model, variables, x, ("Dense_0", "Dense_1"))
    np.testing.assert_allclose(values["Dense_0"], x.reshape(4, -1) @ params["Dense_0"]["kernel"], atol=1e-5)
    np.testing.assert_array_equal(values["Dense_1"], logits)


@pytest.mark.parametrize(
    ("model", "site"), [(Wrapped("scan"), "layers/neurons"), (Twice(), "shared"), (MLP(), "dense9")]
)
def test_read_refuses_a_site_that_gives_no_single_value(model, site):
    x, _ = batch(5, 6)
    with pytest.raises(SiteError, match=site):
        taps.read(model, initialised(model, x), x, (site,))


# --- Gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("derivative", ["activation", "pre_activation"])
def test_one_backward_pass_and_vmap_and_double_precision_agree(activation, derivative):
    model = MLP(activation=activation, neurons=32)
    x, y = batch(6, 8, 8, 1)
    variables = initialised(model, x)
    sites = taps.select(taps.sites(model, variables, x), ("all",))
    whole = taps.activation_gradients(model, variables, x, y, taps.zeros(sites, 6), OBJECTIVES, derivative)
    alone = taps.per_sample_gradients(model, variables, x, y, sites, OBJECTIVES, derivative)
    oracle = oracles.MLP(variables["params"], activation)
    for site in sites:
        exact = np.stack([oracle.margin_gradients(np.asarray(x[i]), int(y[i]))[derivative][site] for i in range(6)])
        np.testing.assert_allclose(whole["margin"][site], exact, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(alone["margin"][site], exact, rtol=1e-4, atol=1e-6)
        # The cross-entropy's derivative is the margin's times sigmoid(margin).
        logits = np.stack([oracle.forward(np.asarray(x[i]))[1] for i in range(6)])
        weight = 1 / (1 + np.exp([-oracles.margin(z, int(label)) for z, label in zip(logits, y, strict=True)]))
        np.testing.assert_allclose(whole["cross_entropy"][site], exact * weight[:, None], rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(
            np.sign(alone["margin"][site]), np.sign(np.where(np.abs(exact) < 1e-12, 0, exact))
        )


@pytest.mark.parametrize("make", [StockMLP, StockCNN, lambda: Wrapped("remat"), lambda: Wrapped("jit")])
def test_gradients_at_a_layer_of_an_unedited_network_are_finite_differences(make):
    model = make()
    x, y = batch(3, 6) if isinstance(model, Wrapped) else batch(3, 8, 8, 1)
    variables = initialised(model, x)
    site = next(iter(taps.sites(model, variables, x)))
    chosen = taps.select(taps.sites(model, variables, x), (site,))
    for _ in range(2):  # the second time, a compiled submodule could answer from its cache
        found = taps.activation_gradients(
            model, variables, x, y, taps.zeros(chosen, 3), {"margin": margin}, "pre_activation"
        )["margin"][site]
    where = np.unravel_index(int(jnp.argmax(jnp.abs(found))), found.shape)
    step = 1e-2

    def at(offset):
        perturbation = {site: jnp.zeros_like(found).at[where].set(offset)}
        return float(margin(taps.perturbed(model, perturbation, "pre_activation")(variables, x), y).sum())

    assert float(found[where]) == pytest.approx((at(step) - at(-step)) / (2 * step), rel=2e-2)


def test_a_nudge_for_one_sample_is_refused_for_a_batch():
    model = MLP()
    x, y = batch(4, 8, 8, 1)
    variables = initialised(model, x)
    sites = taps.select(taps.sites(model, variables, x), ("all",))
    with pytest.raises(SiteError, match=r"shape \[1, 512\], its values \[4, 512\]: broadcasting would sum"):
        taps.activation_gradients(model, variables, x, y, taps.zeros(sites, 1), {"margin": margin})


def test_the_activation_of_a_stock_layer_is_out_of_reach():
    model = StockMLP()
    x, y = batch(4, 8, 8, 1)
    variables = initialised(model, x)
    sites = taps.sites(model, variables, x)
    with pytest.raises(SiteError, match="only its pre-activation can be reached"):
        taps.activation_gradients(model, variables, x, y, taps.zeros(sites, 4), {"margin": margin})


# --- Replace ----------------------------------------------------------------------------------------------------------


def test_replacing_pre_activations_is_what_the_suffix_computes_from_them():
    model = MLP(neurons=16)
    x, _ = batch(4, 8, 8, 1)
    variables = initialised(model, x)
    params = variables["params"]
    other = jax.random.normal(jax.random.key(3), (4, 16))
    out = taps.edited(model, pre={"dense2": lambda _: other})(variables, x)
    by_hand = nn.relu(other) @ params["logits"]["kernel"]
    np.testing.assert_allclose(out, by_hand, atol=1e-5)


def test_a_cached_value_makes_the_compiler_drop_the_whole_prefix():
    model = StockCNN()
    x, _ = batch(4, 8, 8, 1)
    variables = initialised(model, x)

    def convolutions(run):
        return jax.jit(run).lower(variables, x).compile().as_text().count("convolution(")

    cached = jnp.ones((4, 4, 4, 6))
    full = convolutions(lambda v, x: model.apply(v, x))
    cut = convolutions(lambda v, x: taps.edited(model, pre={"Conv_1": lambda _: cached})(v, x))
    assert full > 0
    assert cut == 0


def test_vmap_over_edits_gives_each_edits_own_output():
    model = MLP(neurons=16)
    x, _ = batch(4, 8, 8, 1)
    variables = initialised(model, x)

    def cut(threshold):
        return taps.edited(model, pre={"dense1": lambda z: jnp.where(z > threshold, 1.0, 0.0)})(variables, x)

    thresholds = jnp.asarray([-0.5, 0.0, 0.5])
    together = jax.vmap(cut)(thresholds)
    for i in range(3):
        np.testing.assert_allclose(together[i], cut(thresholds[i]), atol=1e-6)


def test_edits_are_not_fooled_by_a_function_compiled_before():
    model = MLP(neurons=16)
    x, _ = batch(4, 8, 8, 1)
    variables = initialised(model, x)
    compiled = jax.jit(model.apply)
    compiled(variables, x)
    with pytest.raises(TypeError, match=r"flax.linen.*Module"):
        taps.edited(compiled, pre={"dense1": jnp.zeros_like})
    # The same module, applied and compiled before, is edited all the same.
    assert not jnp.allclose(taps.edited(model, pre={"dense1": jnp.zeros_like})(variables, x), compiled(variables, x))


@pytest.mark.parametrize("wrap", ["jit", "remat"])
def test_a_compiled_submodule_is_edited_anew_each_time(wrap):
    model = Wrapped(wrap)
    x, _ = batch(4, 6)
    variables = initialised(model, x)
    plain = model.apply(variables, x)
    for scale in (0.0, 2.0):
        out = taps.edited(model, pre={"layers/neurons": lambda z, s=scale: z * s})(variables, x)
        bias = variables["params"]["logits"]["bias"][None]
        np.testing.assert_allclose(out, (plain - bias) * scale + bias, atol=1e-5)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"pre": {"dense7": jnp.zeros_like}}, "dense7.*no such site"),
        ({"pre": {"dense1": lambda z: z[:1]}}, "must keep shape and dtype"),
        ({"post": {"dense1": lambda a: a.astype(jnp.bfloat16)}}, "must keep shape and dtype"),
    ],
)
def test_an_edit_that_cannot_be_made_is_refused(edits, message):
    model = MLP()
    x, _ = batch(4, 8, 8, 1)
    with pytest.raises(SiteError, match=message):
        taps.edited(model, **edits)(initialised(model, x), x)


# --- Samples that mix -------------------------------------------------------------------------------------------------


def test_batch_normalisation_in_training_mode_is_caught_mixing_samples():
    model = StockCNN(norm=True)
    x, y = batch(8, 8, 8, 1)
    variables = model.init(KEY, x)
    sites = taps.select(taps.sites(model, variables, x), ("Conv_0", "Conv_1"))
    trained = sample_mixing.mixing(
        model, variables, x, y, sites, margin, "pre_activation", train=True, mutable=["batch_stats"]
    )
    # Upstream of the normalisation samples mix both ways, downstream through the values.
    assert all(value > sample_mixing.LIMIT for value in trained.values())
    running = sample_mixing.mixing(model, variables, x, y, sites, margin, "pre_activation")
    assert all(value < sample_mixing.LIMIT for value in running.values())


def test_per_sample_gradients_cannot_mix_even_there():
    model = StockCNN(norm=True)
    x, y = batch(8, 8, 8, 1)
    variables = model.init(KEY, x)
    sites = taps.select(taps.sites(model, variables, x), ("Conv_0",))
    options = {"derivative": "pre_activation", "train": True, "mutable": ["batch_stats"]}
    both = taps.per_sample_gradients(model, variables, x, y, sites, {"margin": margin}, **options)["margin"]["Conv_0"]
    half = taps.per_sample_gradients(model, variables, x[:4], y[:4], sites, {"margin": margin}, **options)
    np.testing.assert_allclose(both[:4], half["margin"]["Conv_0"], atol=1e-6)
