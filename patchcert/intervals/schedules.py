"""What ε and the learning rate are in each epoch of training, and the optimiser."""

from collections.abc import Iterable

import torch
from torch import nn

from patchcert.intervals.config import Training


def epsilon_at(training: Training, epoch: int, progress: float) -> float:
    """ε when the share `progress` of an epoch (from 0) has passed.

    0 for `schedule_start` epochs, then from `starting_epsilon` to `epsilon` over `schedule_length` epochs: in equal
    steps, or, in an exponential schedule, multiplied by the same factor in each.
    """
    if epoch < training.schedule_start:
        return 0.0
    passed = min((epoch + progress - training.schedule_start) / training.schedule_length, 1.0)
    first, last = training.starting_epsilon, training.epsilon
    if training.schedule_shape == "exponential":
        return first * (last / first) ** passed
    return first + (last - first) * passed


def schedule_end(training: Training) -> int:
    """The first epoch in which ε does not change any more."""
    return training.schedule_start + training.schedule_length


def lr_factor(training: Training, epoch: int) -> float:
    """By what the learning rate is multiplied in an epoch: decays are counted from the end of the ε schedule."""
    decays = max(epoch - schedule_end(training), 0) // training.lr_decay_step
    return training.lr_decay_factor**decays


def optimizer_of(parameters: Iterable[nn.Parameter], training: Training) -> torch.optim.Optimizer:
    """Adam, or SGD with Nesterov momentum 0.9."""
    if training.optimizer == "adam":
        return torch.optim.Adam(parameters, training.lr, weight_decay=training.weight_decay, fused=True)
    return torch.optim.SGD(parameters, training.lr, momentum=0.9, weight_decay=training.weight_decay, nesterov=True)
