"""Keras's weights of ResNet50, matched by the names of their layers, not by their order.

Files are read without Keras, in each of its formats: `.h5` of Keras 1 and 2 (weights only, or a whole model), and
`.weights.h5` and `.keras` of Keras 3. Layers may have the names of 2017 (`res2a_branch2a`, `bn2a_branch2a`) or today's
(`conv2_block1_1_conv`, `conv2_block1_1_bn`).
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from neuron_mech.errors import InputError, RunError, first_line
from neuron_mech.lazily import h5py
from neuron_mech.store import files
from neuron_mech.training.models.resnet import BLOCKS, ResNet50, shapes

Layers = dict[str, dict[str, np.ndarray]]
"""{layer: {weight: values}} with Keras's names; layers without weights are left out."""

WEIGHTS = {
    "kernel": "kernel",
    "W": "kernel",
    "bias": "bias",
    "b": "bias",
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "running_mean": "mean",
    "moving_variance": "var",
    "running_std": "var",  # Keras 1 called it so, but it is the variance
}
"""{name of a weight in Keras or Keras 1: its name in Flax}."""


def downloaded() -> Layers:
    """The ImageNet weights of Keras Applications, from its cache or its server, verified by Keras.

    Raises InputError where Keras is not installed, RunError where the download fails.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError:
        raise InputError(
            "Keras's weights need Keras once: pip install 'neuron_mech[resnet]', or give their file with --weights"
        ) from None
    try:
        return of_model(keras.applications.ResNet50(weights="imagenet"))
    except Exception as error:  # no network, a full disk, a wrong file: Keras raises errors of many types
        raise RunError(
            f"cannot download Keras's weights ({first_line(error)}): try again where there is a network, or give their "
            "file with --weights"
        ) from error


def of_model(model: Any) -> Layers:
    """The weights of a `keras.Model`."""
    return {
        layer.name: dict(zip((weight.name for weight in layer.weights), layer.get_weights(), strict=True))
        for layer in model.layers
        if layer.weights
    }


def of_file(path: Path) -> Layers:
    """The weights in a file of Keras.

    Raises InputError, naming the file, where it cannot be read, links to other files, or claims an absurd content.
    """
    try:
        content = files.read(path.resolve())
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                inside = archive.getinfo("model.weights.h5")
                if inside.file_size > files.UNFOLDED * len(content):
                    raise ValueError(f"it has {len(content):,} bytes and claims to hold {inside.file_size:,}")
                content = archive.read(inside)
        file = h5py.File(io.BytesIO(content))
        files.check_hdf5(file, len(content))
        return _of_hdf5(file)
    except Exception as error:  # a damaged file surfaces as any of a dozen types
        raise InputError(
            f"--weights {path} cannot be read as weights of Keras ({first_line(error)}): give a .h5, .weights.h5 or "
            ".keras file"
        ) from error


def variables(layers: Layers, model: ResNet50) -> dict[str, Any]:
    """The weights as variables of `model`, float32. Raises InputError for a missing, unknown or misshapen layer."""
    expected = traverse_util.flatten_dict(shapes(model))
    ours = _names()
    found: dict[tuple[str, ...], np.ndarray] = {}
    for layer, weights in layers.items():
        if layer not in ours:
            raise InputError(f"the weights have a layer {layer!r}, which is none of ResNet50's")
        for name, values in weights.items():
            kind = WEIGHTS.get(name, name)
            key = ("batch_stats" if kind in ("mean", "var") else "params", ours[layer], kind)
            if key not in expected:
                raise InputError(f"the weights' layer {layer!r} has a weight {name!r}, which ResNet50's has not")
            if key in found:
                raise InputError(f"the weights' layer {layer!r} is there twice: by its old name and by its new one")
            if values.shape != expected[key].shape:
                raise InputError(
                    f"the weights' layer {layer!r} has a {name} of shape {list(values.shape)}, ResNet50's is "
                    f"{list(expected[key].shape)}"
                )
            found[key] = np.asarray(values, np.float32)
    for key in (key for key in expected if key not in found):
        called = " or ".join(repr(name) for name, own in ours.items() if own == key[1])
        part = f"{key[2]} in the layer" if any(layer == key[1] for _, layer, _ in found) else "layer"
        raise InputError(f"the weights have no {part} {called}, which ResNet50 needs")
    return jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(found))


def _names() -> dict[str, str]:
    """{name of a layer in Keras, today's or that of 2017: its name in `ResNet50`}."""
    names = {"conv1": "conv1_conv", "bn_conv1": "conv1_norm", "conv1_conv": "conv1_conv", "conv1_bn": "conv1_norm"}
    names |= dict.fromkeys(("fc1000", "probs", "predictions"), "logits")
    for stage, letters in BLOCKS.items():
        for number, letter in enumerate(letters, start=1):
            for index, branch in enumerate(("branch1", "branch2a", "branch2b", "branch2c")):
                old, new = f"{stage}{letter}_{branch}", f"conv{stage}_block{number}_{index}"
                names |= {f"res{old}": f"{old}_conv", f"bn{old}": f"{old}_norm"}
                names |= {f"{new}_conv": f"{old}_conv", f"{new}_bn": f"{old}_norm"}
    return names


def _of_hdf5(file: h5py.File) -> Layers:
    """The layers of a file of Keras 1 and 2, or of Keras 3's own."""
    with file:
        if "layers" in file:
            return dict(_named(group) for group in file["layers"].values() if len(group["vars"]))
        top = file.get("model_weights", file)
        layers = {layer: top[layer] for layer in _listed(top, "layer_names")}
        if not layers:
            raise ValueError("it names no layers")
        weights = {
            layer: {_weight(layer, name): np.asarray(group[name]) for name in _listed(group, "weight_names")}
            for layer, group in layers.items()
        }
        return {layer: found for layer, found in weights.items() if found}


def _named(group: h5py.Group) -> tuple[str, dict[str, np.ndarray]]:
    """(layer, its weights) in a file of Keras 3, which numbers the weights of each layer."""
    weights = group["vars"]
    if "name" not in weights.attrs:
        raise ValueError("its layers have no names: load it with the Keras that wrote it, and save it as .h5")
    names = {2: ("kernel", "bias"), 4: ("gamma", "beta", "moving_mean", "moving_variance")}.get(len(weights))
    if names is None:
        raise ValueError(f"layer {weights.attrs['name']!r} has {len(weights)} weights")
    return weights.attrs["name"], {name: np.asarray(weights[str(i)]) for i, name in enumerate(names)}


def _listed(group: h5py.Group, attribute: str) -> list[str]:
    """An attribute that is a list of names; Keras splits a long one into several: layer_names0, layer_names1 ..."""
    found = dict[str, Any](group.attrs)
    parts = [found[attribute]] if attribute in found else []
    while f"{attribute}{len(parts)}" in found:
        parts.append(found[f"{attribute}{len(parts)}"])
    return [name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in part]


def _weight(layer: str, name: str) -> str:
    """A weight's own name: kernel of `res2a_branch2a/kernel:0`, running_std of `bn2a_branch2a_running_std_1:0`."""
    last = name.rpartition("/")[2].partition(":")[0]
    return re.sub(r"_\d+$", "", last).removeprefix(f"{layer}_")
