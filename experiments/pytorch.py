"""The same network, training, recording and retraining in PyTorch, for `experiments.benchmark` to compare with.

hooks: forward hooks, retain_grad and backward(), as one would write it first. tuned: torch.autograd.grad with respect
to the activations alone, no parameter gradients.
"""

import numpy as np
import torch

from neuron_mech.datasets import Dataset
from neuron_mech.presets import Config

ACTIVATIONS = {"relu": torch.nn.ReLU, "sigmoid": torch.nn.Sigmoid}


class Torch:
    """A network with its training data, its optimizer, and its counts of signs."""

    def __init__(self, config: Config, dataset: Dataset, tuned: bool):
        self.config, self.tuned = config, tuned
        activation = ACTIVATIONS[config.model.activation]
        self.activations = [activation(), activation()]
        drop = config.model.dropout or 0.0
        self.model = torch.nn.Sequential(
            torch.nn.Linear(784, 512),
            self.activations[0],
            torch.nn.Dropout(drop),
            torch.nn.Linear(512, 512),
            self.activations[1],
            torch.nn.Dropout(drop),
            torch.nn.Linear(512, 10),
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.train.learning_rate)
        self.images = torch.from_numpy(np.array(dataset.train.images)).reshape(len(dataset.train), -1)
        self.labels = torch.from_numpy(np.array(dataset.train.labels)).long()
        self.recorded = torch.arange(len(dataset.train) if config.record.samples == "all" else config.record.samples)
        shape = (len(self.recorded), 512)
        self.counts = [[torch.zeros(shape, dtype=torch.int16) for _ in range(4)] for _ in self.activations]

    def _inputs(self, ids):
        return self.images[ids].float() / 255

    def steps(self, count: int) -> None:
        """So many full batches."""
        size = self.config.train.batch_size
        self._train(torch.randperm(len(self.images))[: count * size].split(size))

    def _train(self, batches) -> None:
        self.model.train()
        for ids in batches:
            loss = torch.nn.functional.cross_entropy(self.model(self._inputs(ids)), self.labels[ids])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()

    def record(self) -> None:
        """One recording."""
        self.model.eval()
        for start in range(0, len(self.recorded), self.config.record.chunk):
            ids = self.recorded[start : start + self.config.record.chunk]
            for counts, gradient in zip(self.counts, self.gradients(ids), strict=True):
                self._count([count[start : start + len(ids)] for count in counts], gradient)

    def gradients(self, ids) -> list:
        """Derivatives of each sample's cross-entropy with respect to its activations at both sites."""
        captured: list[torch.Tensor] = []
        if self.tuned:
            x = self._inputs(ids)
            parameters = list(self.model.parameters())
            for parameter in parameters:
                parameter.requires_grad_(False)
            for layer in self.model:
                x = layer(x)
                if layer in self.activations:
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

        hooks = [module.register_forward_hook(keep) for module in self.activations]
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

    def epoch(self) -> None:
        """One epoch with its recordings."""
        every, size = self.config.record.every, self.config.train.batch_size
        batches = torch.randperm(len(self.images)).split(size)
        for start in range(0, len(batches), every):
            self.record()
            self._train(batches[start : start + every])


def retrain_epoch(config: Config, bits: np.ndarray, labels: np.ndarray) -> None:
    """An epoch of what follows dense1, for every window of `bits`, (windows, samples, 512) zeros and ones."""
    activation, drop, size = ACTIVATIONS[config.model.activation], config.model.dropout or 0.0, config.train.batch_size
    targets = torch.from_numpy(np.array(labels)).long()
    for window in bits:
        model = torch.nn.Sequential(
            activation(),
            torch.nn.Dropout(drop),
            torch.nn.Linear(512, 512),
            activation(),
            torch.nn.Dropout(drop),
            torch.nn.Linear(512, 10),
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=config.train.learning_rate)
        values = torch.from_numpy(window)
        for ids in torch.randperm(len(values)).split(size):
            loss = torch.nn.functional.cross_entropy(model(values[ids].float()), targets[ids])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
