"""Result files with made-up numbers in which all eleven claims hold, and changes that take one away."""

import numpy as np
import xarray as xr

from neuron_mech import store
from neuron_mech.paper.claims import Findings

NEURONS = 50
SEEDS = 3


def around(mean, width=0.02, seed=0):
    """Values of neurons with exactly this mean."""
    noise = np.random.default_rng(seed).normal(size=NEURONS)
    return mean + width * (noise - noise.mean())


def over_seeds(make, **changes):
    """A result file a seed, its means a little apart."""
    return [make(shift=0.004 * (k - 1), **changes) for k in range(SEEDS)]


def of_two_sites(variables, activation="relu", sites=("stage0layer0", "stage3layer2"), **more):
    """A result file over the neurons of two sites."""
    coords = {
        "site": list(sites),
        "label": ("site", [f"{site}-{activation}" for site in sites]),
        "neuron_site": ("neuron", np.repeat(sites, NEURONS)),
        "neuron_index": ("neuron", [*range(NEURONS)] * 2),
    }
    found = store.selectable(xr.Dataset(variables | more, coords))
    return found.assign_coords(phase=["before", "after"]) if "phase" in found.dims else found


def signs_file(early=0.4, late=0.8, low=0.52, activation="relu", shift=0.0):
    of = {"constancy": (early, late), "rarefied_constancy": (early, late), "low_share": (low, low)}
    variables = {f"neuron_{n}": ("neuron", np.concatenate([around(v + shift) for v in vs])) for n, vs in of.items()}
    variables["constancy_curve"] = (("site", "level"), [[early, 0.3, 0.2], [late, 0.7, 0.6]])
    variables["constancy_so_far"] = (("site", "epoch"), [[early / 2, early], [late / 2, late]])
    return of_two_sites(variables, activation).assign_coords(level=[0.9, 0.99, 1.0])


def train_file(shift=0.0, losses=(1.0, 0.1)):
    return xr.Dataset({"loss": ("step", np.repeat(losses, 4))}, {"epoch": [1, 2]})


def displacement_file(null=(0.3, 0.6), shift=0.0):
    of = [np.concatenate([around(v + shift) for v in pair]) for pair in ((0.4, 0.8), null, null)]
    found = of_two_sites({"neuron_constancy": (("null", "neuron"), of)})
    return found.assign_coords(null=["as it is", "displacement permuted", "displacement permuted, biases too"])


def controls_file(true=0.85, random=0.6, fitted=True, shift=0.0):
    return of_two_sites(
        {
            "neuron_constancy": (("control", "neuron"), [np.tile(around(share), 2) for share in (random, true)]),
            "fitted": ("control", [fitted, True]),
            "train_accuracy": ("control", [0.6 if not fitted else 1.0, 1.0]),
        },
    ).assign_coords(control=["random-labels", "true-labels"])


def dynamics_file(start=0.55, another=0.5, end=0.75, climbed=0.5, shift=0.0):
    auc = [[around(start), around(end + shift)], [around(0.5), around(another, seed=1)]]
    variables = {"auc": (("partition", "wide_epoch", "neuron"), np.tile(auc, 2))}
    ends = {"half_auc": 0.74, "class_auc": 0.7, "position_mean_auc": np.nan}
    ranks = {"highest_rank_start": 90 - 40 * climbed, "highest_rank_end": 90 + shift}
    for name, value in (ends | ranks).items():
        variables[name] = ("neuron", np.tile(around(value), 2))
    return of_two_sites(variables).assign_coords(partition=["own", "another neuron's"])


def classes_file(whole=8, dealt=0, first=6, first_low=0.8, shift=0.0):
    """`whole` of ten classes are wholly low; `first` by the first recording, `dealt` of labels dealt at random."""

    def shares(several):
        return np.where(np.arange(10) < several, 1.0, 0.5)[None].repeat(2 * NEURONS, 0)

    share = shares(whole)
    share[: int(20 * (1 + 100 * shift)), 0] = 0.5  # not all seeds alike
    found = of_two_sites(
        {
            "low_share": (("neuron", "label"), share),
            "first_low_share_by_class": (("neuron", "label"), shares(first)),
            "permuted_low_share": (("neuron", "label"), shares(dealt)),
            "first_low_share": ("neuron", np.tile(around(first_low + shift), 2)),
            "agreement": (("predictor", "neuron"), np.tile(around(0.75 + shift), (2, 2))),
        },
    )
    found = found.drop_vars("label").assign_coords(site_label=("site", ["dense1-relu", "dense2-relu"]))
    return found.assign_coords(predictor=["class sign, untrained", "class sign, trained"])


def codes_file(low=0.93, high=0.98, noise=0.90, rank=70.0, width=5.0, before=30.0, activation="relu", edge=0.93):
    ranks = np.arange(0, 101, 10)
    curve = np.where(ranks < 50, low, high)
    curve = np.where((ranks == 0) | (ranks == 100), 0.1, curve)
    curve[1] = edge
    dims = ("seed", "site", "percentile_rank")
    shifts = 0.002 * (np.arange(SEEDS) - 1)
    variables = {
        "accuracy_by_seed": (dims, np.stack([[curve + s] * 2 for s in shifts])),
        "noise_accuracy_by_seed": (dims, np.stack([np.full((2, 11), noise + 0.3 * s) for s in shifts])),
        "original_accuracy_by_seed": ("seed", np.full(SEEDS, 0.98)),
    }
    for name, values in (("zero_rank", around(rank, width)), ("untrained_zero_rank", around(50, before))):
        variables[f"{name}_by_seed"] = (("seed", "neuron"), [np.tile(values, 2) * (1 + s) for s in shifts])
    found = of_two_sites(variables, activation).assign_coords(seed=range(SEEDS), percentile_rank=ranks)
    return found.assign(chance=((), 0.1)).assign_attrs(test_samples=10_000)


def windows_file(rise=0.3, middle=0.6, control_rise=0.1, control_middle=0.4, lean=0.0):
    center = np.arange(5, 100, 10)
    shape = np.abs(center - 50) / 45
    own = middle + rise * (shape - shape.min()) / (1 - shape.min()) + lean * (center - 50) / 90
    other = control_middle + control_rise * (shape - shape.min()) / (1 - shape.min())
    shifts = 0.002 * (np.arange(SEEDS) - 1)[:, None, None]
    curves = [
        np.array([own, own]) + shifts,
        np.array([other, other]) + shifts / 2,
        np.array([other, other]) + shifts / 2,
    ]
    sites = ["stage0layer0", "stage3layer2"]
    return xr.Dataset(
        {"accuracy_by_seed": (("source", "seed", "site", "window_center"), curves), "chance": ((), 0.1)},
        {
            "source": ["trained", "untrained", "projection"],
            "seed": range(SEEDS),
            "site": sites,
            "label": ("site", [f"{site}-relu" for site in sites]),
            "window_center": center,
        },
        {"test_samples": 10_000},
    )


TRUE = Findings(
    preset="digits",
    network="cnn",
    train=over_seeds(train_file),
    signs=over_seeds(signs_file),
    dynamics=over_seeds(dynamics_file),
    classes=over_seeds(classes_file),
    displacement=over_seeds(displacement_file),
    quantization=codes_file(),
    binarization=windows_file(),
    beside=over_seeds(signs_file, early=0.6, activation="linear"),
    train_beside=over_seeds(train_file),
)
"""All eleven claims hold on these."""
