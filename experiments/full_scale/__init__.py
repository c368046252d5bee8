"""The paper's CIFAR-10 in full, and what else wants a GPU, in sittings of half an hour: what is worth most first.

    python -m experiments.full_scale OUT --data-dir data

Does, as processes of the other experiments: wrong signs by precision and equal bits of resumed runs (check), the two
networks of the paper's CIFAR-10 (cifar10), their windows (windows), speed beside PyTorch (speed), the two of MNIST
(mnist), and ResNet50 on CIFAR-10 (resnet). Each step has a time limit, at which its processes get SIGTERM, so that runs
save and export themselves, and a minute later SIGKILL. Logs, summary and exports in pieces of 15 MB at most are put
into OUT as they come. The same command again skips what is done and goes on with what was stopped. --rehearse does all
of it at a tiny size, on any device, in OUT/rehearsal.
"""
