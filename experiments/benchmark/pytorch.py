"""The same networks, training, recording and retraining in PyTorch, for `experiments.benchmark` to compare with.

On a GPU where PyTorch has one, in the arithmetic that ours trains in, with the fastest of cuDNN's kernels; convolutions
in channels-last order. `comparison` says what hooks and tuned are.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from neuron_mech.config import Config
from neuron_mech.precision import Arithmetic
from neuron_mech.runs import Study
from neuron_mech.training.augmentation import SHIFT
from neuron_mech.training.datasets import Dataset

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ACTIVATIONS = {"relu": torch.nn.ReLU, "sigmoid": torch.nn.Sigmoid, "linear": torch.nn.Identity}


def multiply(arithmetic: Arithmetic) -> None:
    """From here on, have a GPU multiply float32 as JAX does: by default in TF32, or to its full precision."""
    if DEVICE == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = arithmetic == "default"
        torch.set_float32_matmul_precision("high" if arithmetic == "default" else "highest")


def network(config: Config, image: tuple[int, ...]) -> tuple[torch.nn.Sequential, dict[str, torch.nn.Module]]:
    """(the network, {site: its activation's module}) for images of (height, width, channels)."""
    activation = ACTIVATIONS[config.model.activation]
    layers: list[torch.nn.Module] = []
    sites: dict[str, torch.nn.Module] = {}
    if config.model.network == "mlp":
        before = int(np.prod(image))
        layers.append(torch.nn.Flatten())
        for layer in range(1, (config.model.depth or 0) + 1):
            size = round(512 * config.model.width)
            sites[f"dense{layer}"] = activation()
            dropout = torch.nn.Dropout(config.model.dropout or 0.0)
            layers += [torch.nn.Linear(before, size), sites[f"dense{layer}"], dropout]
            before = size
    else:
        before = image[-1]
        for stage, full in enumerate((64, 128, 256, 512)):
            layers += [torch.nn.MaxPool2d(2)] if stage else []
            for layer in range(config.model.depth or 3):
                size = round(full * config.model.width)
                sites[f"stage{stage}layer{layer}"] = activation()
                layers += [
                    torch.nn.Conv2d(before, size, 3, padding=1),
                    sites[f"stage{stage}layer{layer}"],
                    torch.nn.BatchNorm2d(size, eps=1e-3, momentum=0.01),
                ]
                before = size
        layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(before, 10)), sites


class Torch:
    """A network with its training data, its optimizer, and its counts of signs."""

    def __init__(self, study: Study, dataset: Dataset, tuned: bool, compiled: bool = False):
        config = study.config
        self.study, self.config, self.tuned = study, config, tuned
        images = torch.from_numpy(np.array(dataset.train.images))
        self.model: Any
        self.model, sites = network(config, tuple(images.shape[1:]))
        self.model.to(DEVICE, memory_format=torch.channels_last)
        self.activations = {name: sites[name] for name in study.sites}
        self.forward: Callable = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.train.learning_rate)
        self.images = images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).to(DEVICE)
        self.labels = torch.from_numpy(np.array(dataset.train.labels)).long().to(DEVICE)
        self.recorded = torch.from_numpy(np.asarray(study.recorded)).long().to(DEVICE)
        self.counts = {}
        for name, site in study.sites.items():
            *positions, neurons = site.shape
            shape = (study.design.rows[name], neurons, *positions)
            order = torch.channels_last if positions else torch.contiguous_format
            empty = torch.zeros(shape, dtype=torch.int16, device=DEVICE).contiguous(memory_format=order)
            self.counts[name] = [empty.clone() for _ in range(4)]

    def _inputs(self, ids, augmented: bool = False):
        images = self.images[ids]
        if augmented:
            batch, _, height, width = images.shape
            flip = torch.rand(batch, device=DEVICE) < 0.5
            down, right = (
                ((2 * torch.rand(batch, device=DEVICE) - 1) * SHIFT * size).round().long() for size in (height, width)
            )
            rows = (torch.arange(height, device=DEVICE) - down[:, None]).clamp(0, height - 1)
            columns = (torch.arange(width, device=DEVICE) - right[:, None]).clamp(0, width - 1)
            columns = torch.where(flip[:, None], width - 1 - columns, columns)
            each = torch.arange(batch, device=DEVICE)[:, None, None]
            images = images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return images.float() / 255

    def steps(self, count: int) -> None:
        """So many full batches."""
        size = self.config.train.batch_size
        self._train(torch.randperm(len(self.images), device=DEVICE)[: count * size].split(size))

    def _train(self, batches) -> None:
        self.model.train()
        for ids in batches:
            logits = self.forward(self._inputs(ids, self.config.data.augment))
            loss = torch.nn.functional.cross_entropy(logits, self.labels[ids])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        wait()

    def record(self) -> None:
        """One recording."""
        self.model.eval()
        for group in self.study.design.groups():
            for start in range(group.start, group.stop, self.config.record.chunk):
                rows = slice(start, min(start + self.config.record.chunk, group.stop))
                found = self.gradients(self.recorded[rows], group.sites)
                for name, gradient in zip(group.sites, found, strict=True):
                    self._count([count[rows] for count in self.counts[name]], gradient)
        wait()

    def gradients(self, ids, sites: tuple[str, ...]) -> list:
        """Derivatives of each sample's cross-entropy with respect to its activations at the sites."""
        captured: list[torch.Tensor] = []
        modules = [self.activations[name] for name in sites]
        if self.tuned:
            x = self._inputs(ids)
            parameters = list(self.model.parameters())
            for parameter in parameters:
                parameter.requires_grad_(False)
            for layer in self.model:
                x = layer(x)
                if any(layer is module for module in modules):
                    x = x if x.requires_grad else x.requires_grad_()
                    captured.append(x)
            loss = torch.nn.functional.cross_entropy(x, self.labels[ids], reduction="sum")
            found = list(torch.autograd.grad(loss, captured))
            for parameter in parameters:
                parameter.requires_grad_(True)
            return found

        def keep(module, args, output):
            output.retain_grad()
            captured.append(output)

        hooks = [module.register_forward_hook(keep) for module in modules]
        self.model.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(self.model(self._inputs(ids)), self.labels[ids], reduction="sum").backward()
        for hook in hooks:
            hook.remove()
        return [output.grad for output in captured]

    def _count(self, counts, gradient) -> None:
        positive, negative, flips, last = counts
        sign = torch.sign(gradient).to(torch.int16)
        positive += sign > 0
        negative += sign < 0
        flips += (sign * last) < 0
        torch.where(sign != 0, sign, last, out=last)

    def segments(self, count: int) -> None:
        """So many recordings, each followed by its training steps."""
        every, size = self.config.record.every, self.config.train.batch_size
        batches = torch.randperm(len(self.images), device=DEVICE).split(size)
        for index in range(count):
            self.record()
            self._train(batches[index * every : (index + 1) * every])


def wait() -> None:
    """Until the GPU, if there is one, is done."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def retrain_epoch(config: Config, bits: np.ndarray, labels: np.ndarray) -> None:
    """An epoch of what follows dense1, for every window of `bits`, (windows, samples, neurons) zeros and ones."""
    size, targets = config.train.batch_size, torch.from_numpy(np.array(labels)).long().to(DEVICE)
    for window in bits:
        layers, _ = network(config, (1, 1, bits.shape[-1]))
        model = layers[2:].to(DEVICE)  # from dense1's activation on
        optimizer = torch.optim.SGD(model.parameters(), lr=config.train.learning_rate)
        values = torch.from_numpy(window).to(DEVICE)
        for ids in torch.randperm(len(values), device=DEVICE).split(size):
            loss = torch.nn.functional.cross_entropy(model(values[ids].float()), targets[ids])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        wait()
