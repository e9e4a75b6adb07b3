"""What changes the weights: SGD, and Muon for the filters of convolutions where a recipe asks for it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from patchcert import checkpoint
from patchcert.training.recipes import Recipe


class Optimizers:
    """SGD for all weights of `network`, or for all but the filters of convolutions, which Muon trains.

    Muon (Jordan and others, 2024) makes a step equally long in all directions that its momentum has. torch's takes
    matrices: here a filter (O, I, height, width) is one of O rows, in the memory of the filter.

    Attributes:
        by_name: torch's optimizers, under the names that checkpoints have for their states.
    """

    def __init__(self, network: nn.Module, recipe: Recipe):
        weights = list(network.parameters())
        self.filters = [w for w in weights if w.dim() == 4 and w.requires_grad] if recipe.filters_lr else []
        self.matrices = [_matrix(weight.detach(), weight) for weight in self.filters]
        others = {id(weight) for weight in self.filters}
        sgd = torch.optim.SGD(
            [weight for weight in weights if id(weight) not in others],
            recipe.lr,
            recipe.momentum,
            weight_decay=recipe.regularization,
            nesterov=recipe.nesterov,
            fused=True,
        )
        self.by_name: dict[str, torch.optim.Optimizer] = {"optimizer": sgd}
        if self.filters:
            muon = torch.optim.Muon(self.matrices, recipe.filters_lr, recipe.filters_regularization)
            self.by_name["filters"] = muon

    def set_share_of_lr(self, share: float) -> float:
        """Let learning rates be this share of those of the recipe; returns SGD's."""
        for optimizer in self.by_name.values():
            optimizer.param_groups[0]["lr"] = share * optimizer.defaults["lr"]
        return self.by_name["optimizer"].param_groups[0]["lr"]

    def step(self) -> None:
        """Follow the gradients that the weights have now."""
        for weight, matrix in zip(self.filters, self.matrices, strict=True):
            matrix.grad = None if weight.grad is None else _matrix(weight.grad, weight)
        for optimizer in self.by_name.values():
            optimizer.step()

    def states(self) -> dict[str, dict]:
        return {name: optimizer.state_dict() for name, optimizer in self.by_name.items()}

    def load(self, state: dict, origin: Path) -> None:
        """Take the momentum that the checkpoint `state`, in the file `origin`, has.

        Raises:
            UsageError: it is broken, or that of other optimizers or another network.
        """
        for name, optimizer in self.by_name.items():
            if name in state:
                checkpoint.require_optimizer("resume", origin, optimizer, state[name])
                groups = optimizer.state_dict()["param_groups"]
                optimizer.load_state_dict({"state": state[name]["state"], "param_groups": groups})


def _matrix(filters: Tensor, weight: Tensor) -> Tensor:
    """(O, I · height · width): filters (O, I, height, width) in the order in which `weight` lies in memory."""
    return filters.flatten(1) if weight.is_contiguous() else filters.permute(0, 2, 3, 1).flatten(1)
