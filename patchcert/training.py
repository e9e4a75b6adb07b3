"""The training loop."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from patchcert import checkpoint
from patchcert.ablation import Ablation, encode
from patchcert.datasets import Augmentation, Dataset
from patchcert.results import print_epoch, progress_bar

STEPS_BETWEEN_READINGS = 25
"""Steps after which the progress bar reads loss and accuracy, which waits for the device."""


@dataclass(frozen=True)
class Recipe:
    """How to train: SGD with momentum, one random ablation for each batch (section 4 of the paper).

    Attributes:
        lr: learning rate.
        regularization: weight decay.
        end_epoch: index of the last epoch.
        batch_size: images per step.
        seed: with an epoch's index, fixes all of that epoch's randomness.
        augmentations: applied to each training batch, in this order.
    """

    lr: float
    regularization: float
    end_epoch: int
    batch_size: int
    seed: int
    augmentations: tuple[Augmentation, ...] = ()
    momentum: float = 0.9

    def settings(self) -> dict:
        """What must agree for an interrupted run to go on, in types that a checkpoint can hold."""
        return asdict(self) | {"augmentations": [augment.__name__ for augment in self.augmentations]}

    def generator(self, epoch: int, device: torch.device | str) -> torch.Generator:
        """Fresh for each epoch, so that a run stopped after any epoch goes on as if it had not been."""
        return torch.Generator(device).manual_seed(self.seed * 1_000_003 + epoch)


def ablated(images: Tensor, ablation: Ablation | None, generator: torch.Generator) -> Tensor:
    """Inputs (N, 2C, H, W) that show one random ablation of all `images` (N, C, H, W); the images without one."""
    if ablation is None:
        return images
    index = torch.randint(ablation.count, (1,), generator=generator, device=images.device)
    return encode(images) * ablation.masks(index)


def train(
    network: nn.Module,
    ablation: Ablation | None,
    train_set: Dataset,
    test_set: Dataset,
    recipe: Recipe,
    path: Path,
    resumed: dict | None = None,
) -> dict:
    """Train `network`, all arguments on one device, and write the checkpoint `path` after the last epoch.

    After each epoch `path`.partial holds the run so far; the same call takes it up again and comes to the
    same result. A log of one JSON object per epoch lies beside the checkpoint.

    Args:
        ablation: None trains on the images themselves.
        resumed: content of the checkpoint whose weights `network` has; training goes on after its epoch.

    Returns:
        The checkpoint: `net`, `acc` (accuracy on ablated test images, %), `epoch`, `optimizer`, `settings`.
    """
    device = train_set.labels.device
    optimizer = torch.optim.SGD(
        network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.regularization, fused=True
    )
    settings = recipe.settings() | {"images": len(train_set), "file": path.name}
    partial, log = path.with_name(path.name + ".partial"), path.with_suffix(".jsonl")
    state = _interrupted(partial, settings, network) or resumed or {"epoch": -1}
    _restore_optimizer(optimizer, state, recipe.lr)
    _keep_log_until(log, state["epoch"])
    for epoch in range(state["epoch"] + 1, recipe.end_epoch + 1):
        row = train_epoch(network, optimizer, ablation, train_set, recipe, epoch)
        row["test_accuracy"] = ablated_accuracy(network, ablation, test_set, recipe.generator(epoch, device))
        state = {
            "net": network.state_dict(),
            "acc": 100 * row["test_accuracy"],
            "epoch": epoch,
            "optimizer": optimizer.state_dict(),
            "settings": settings,
        }
        checkpoint.save(state, partial)
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print_epoch(row, recipe.end_epoch)
    partial.replace(path)
    return state


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    ablation: Ablation | None,
    train_set: Dataset,
    recipe: Recipe,
    epoch: int,
) -> dict:
    """One pass over `train_set`; returns epoch, mean loss, accuracy (fraction), learning rate and seconds."""
    network.train()
    device = train_set.labels.device
    generator = recipe.generator(epoch, device)
    loss_sum, correct, seen = torch.zeros((), device=device), torch.zeros((), device=device), 0
    started = time.perf_counter()
    bar = progress_bar(len(train_set), f"epoch {epoch}/{recipe.end_epoch}")
    batches = train_set.shuffled_batches(recipe.batch_size, generator, recipe.augmentations)
    for step, (images, labels) in enumerate(batches):
        logits = network(ablated(images, ablation, generator))
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(labels)
        loss_sum += loss.detach() * len(labels)
        correct += (logits.detach().argmax(dim=1) == labels).sum()
        if step % STEPS_BETWEEN_READINGS == 0:
            bar.set_postfix(loss=f"{loss_sum.item() / seen:.4f}", accuracy=f"{correct.item() / seen:.2%}")
        bar.update(len(labels))
    bar.close()
    return {
        "epoch": epoch,
        "loss": loss_sum.item() / seen,
        "train_accuracy": correct.item() / seen,
        "lr": recipe.lr,
        "seconds": time.perf_counter() - started,
    }


@torch.inference_mode()
def ablated_accuracy(
    network: nn.Module, ablation: Ablation | None, dataset: Dataset, generator: torch.Generator, batch_size: int = 100
) -> float:
    """Share of correctly classified images, each batch under one random ablation."""
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=dataset.labels.device)
    for images, labels in dataset.batches(batch_size):
        correct += (network(ablated(images, ablation, generator)).argmax(dim=1) == labels).sum()
    return correct.item() / len(dataset)


def _interrupted(partial: Path, settings: dict, network: nn.Module) -> dict | None:
    """The state of an interrupted run with the same settings, its weights loaded; None if there is none."""
    if not partial.exists():
        return None
    state = checkpoint.read("resume", partial)
    if state["settings"] != settings:
        return None
    network.load_state_dict(state["net"])
    return state


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: dict, lr: float) -> None:
    """Take over the momentum of an earlier run, where its checkpoint has it, under this run's learning rate."""
    if "optimizer" in state:
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})


def _keep_log_until(log: Path, epoch: int) -> None:
    """Drop what an interrupted run wrote of epochs that will run again; a new run starts with an empty log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    log.write_text("".join(line for line in lines if json.loads(line)["epoch"] <= epoch))
