"""Certified and clean error of a network: a certificate covers every place of the patch, and all rounding.

Bounds are float32 with room for rounding (`rounding`). Images that these do not certify, but bounds without that room
would, are looked at in float64, which needs a third of it; what it does not certify either is counted.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import torch
from torch import Tensor, nn

from patchcert import checkpoint, distributed
from patchcert.attacks.ascent import Ascent, Attack, margin
from patchcert.attacks.searches import try_random_places
from patchcert.attacks.targets import Targets
from patchcert.attacks.threats import PatchThreat
from patchcert.attacks.undefended import undefended
from patchcert.data.dataset import Dataset
from patchcert.errors import UsageError
from patchcert.intervals.bounds import certified, leads
from patchcert.intervals.config import Config, Model, require_settings
from patchcert.intervals.networks import network_of
from patchcert.intervals.places import Places, Scale, Threat, all_places
from patchcert.intervals.sparse import SparseThreat, sparse_margins_rounded
from patchcert.intervals.worst_places import Batch, all_margins, double
from patchcert.journal import Journal
from patchcert.networks import finite
from patchcert.progress import progress_bar


@dataclass(frozen=True)
class Verdicts:
    """What is known of N images; axis 0 of every tensor is the image.

    Attributes:
        predicted: (N,) int64, the class of the largest logit.
        certified: (N,) bool, classified right whatever the threat model allows, however float32 rounds.
        within_rounding: (N,) bool, certified but for rounding.
        flipped: (N,) bool, classified right until an attack changed that; None where there was no attack.
    """

    predicted: Tensor
    certified: Tensor
    within_rounding: Tensor
    flipped: Tensor | None = None

    def columns(self) -> dict[str, Tensor]:
        """What `--per_image` says."""
        return {name: value for name, value in vars(self).items() if value is not None}


def model_file(folder: Path, model_id: str) -> Path:
    """The best file of a model where there is one, else its last.

    Raises:
        UsageError: there is neither.
    """
    for name in (f"{model_id}_best.pth", f"{model_id}.pth"):
        if os.path.lexists(folder / name):
            return folder / name
    raise UsageError("config", f"models_path={folder}", f"has neither {model_id}_best.pth nor {model_id}.pth")


def trained(
    config: Config, model: Model, folder: Path, image_shape: tuple[int, int, int], classes: int
) -> tuple[nn.Sequential, dict]:
    """A model's network as train.py left it in `folder`, on the CPU, and which file and epoch that is.

    Raises:
        UsageError: there is no such file, it is of another network or one whose inputs were normalised otherwise, or
            the config does not fit such images.
    """
    network, path = network_of(config, model, image_shape, classes), model_file(folder, model.model_id)
    content = checkpoint.load_network("config", path, network, entry="state_dict")
    if "settings" in content:
        require_settings("config", path, content["settings"], {"mean": config.mean, "std": config.std})
    epoch = checkpoint.require_epoch("config", path, content) if "epoch" in content else None
    return network, {"checkpoint": str(path), "sha256": checkpoint.sha256(path), "epoch": epoch}


@torch.no_grad()
def verdicts(
    network: nn.Sequential, dataset: Dataset, config: Config, max_memory: int, journal: Journal | None = None
) -> Verdicts:
    """Classify and certify all images, at strength `eval_params:epsilon`; the bar shows the certified accuracy.

    Each process certifies its share of the images and gets the verdicts on all. The `journal` keeps them as they come.
    """
    network.eval()

    def look(images: Tensor, labels: Tensor) -> list[Tensor]:
        predicted = finite(network(config.scale.inputs(images))).argmax(dim=1)
        holds, without_room = _certify(network, images, labels, predicted == labels, config, max_memory)
        return [predicted, holds, without_room & ~holds]

    parts: tuple[list[Tensor], ...] = [], [], []
    with progress_bar(len(dataset), "certifying") as bar:
        for found, labels in (journal or Journal()).over(dataset, config.eval_params.batch_size, look):
            for part, values in zip(parts, found, strict=True):
                part.append(values)
            bar.set_postfix(certified=f"{torch.cat(parts[1]).double().mean():.2%}")
            bar.update(len(labels) * distributed.world())
    return Verdicts(*(distributed.merge(torch.cat(part), len(dataset)) for part in parts))


def _certify(
    network: nn.Sequential, images: Tensor, labels: Tensor, right: Tensor, config: Config, max_memory: int
) -> tuple[Tensor, Tensor]:
    """(N,) bool each: which images of those classified right (N,) are certified, and which without room for rounding.

    The second has all of the first.
    """
    method, epsilon = config.eval_params.method_params, config.eval_params.epsilon
    if method.sparse:
        return _certify_sparse(network, images, labels, right, config, max_memory)
    threat = Threat(method.patch, epsilon)
    plain = Batch(network, images, labels, threat, config.scale, (), max_memory)
    holds, close = everywhere(replace(plain, rounded=True), right)
    without_room, _ = everywhere(plain, close)
    if without_room.any():
        doubtful = replace(plain.of(without_room).in_double(), rounded=True)
        holds[without_room], _ = everywhere(doubtful, without_room[without_room])
    return holds, holds | without_room


def _certify_sparse(
    network: nn.Sequential, images: Tensor, labels: Tensor, right: Tensor, config: Config, max_memory: int
) -> tuple[Tensor, Tensor]:
    """As `_certify`. Tight bounds, which cost more, are computed where the plain ones, never tighter, do not do."""
    method = config.eval_params.method_params
    threat, holds = SparseThreat(method.k, config.eval_params.epsilon), torch.zeros_like(right)
    without_room = holds.clone()
    for tight in (False, True) if method.bound_type == "sparse-interval-tight" else (False,):
        bounds = replace(threat, tight=tight)
        for in_double in (False, True):
            chosen = (without_room if in_double else right) & ~holds
            if not chosen.any():
                continue
            seen = (double(network), images[chosen].double()) if in_double else (network, images[chosen])
            both = sparse_margins_rounded(*seen, labels[chosen], bounds, config.scale, max_memory)
            plain, rounded = (certified(worst, labels[chosen]) for worst in both)
            holds[chosen] = rounded
            without_room[chosen] |= plain
    return holds, holds | without_room


def everywhere(batch: Batch, hopeful: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) bool each: images of a batch that are certified at every place of the patch, and those that come close.

    Places are tried in chunks, spread over the image. An image leaves after the first chunk with a place where it
    is not certified; it came close if it would be, at the worst of these places, without room for rounding.

    Args:
        hopeful: (N,) bool, images that can be certified at all: those classified correctly.
    """
    holds, close = hopeful.clone(), torch.zeros_like(hopeful)
    everything = all_places(batch.images, batch.threat.patch)
    corners = everything.corners[spread(len(everything.corners))]
    for images in batch.split(everything, with_gradients=False):
        holds[images], close[images] = _everywhere(batch.of(images), hopeful[images], corners)
    return holds, close


def _everywhere(batch: Batch, hopeful: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """`everywhere` for images that are computed together, at the corners (P, 1, 2) in this order."""
    bounds, left, worst = batch.bounds(), hopeful.nonzero().squeeze(1), corners.new_zeros(len(hopeful), 2)
    while len(left) and len(corners):
        count = bounds.places_at_once(Places(corners, left), batch.max_memory)
        margins = bounds.margins(Places(corners[:count], left))  # (P, B, K)
        lowest, place = leads(margins, batch.labels[left]).min(dim=0)
        worst[left] = corners[place, 0]
        left, corners = left[lowest > 0], corners[count:]
    holds, close = torch.zeros_like(hopeful), torch.zeros_like(hopeful)
    holds[left] = True
    gone = (hopeful & ~holds).nonzero().squeeze(1)
    if batch.rounded and len(gone):
        without_room = bounds.without_room().margins(Places(worst[None, gone], gone))[0]
        close[gone] = certified(without_room, batch.labels[gone])
    return holds, close


def spread(count: int) -> Tensor:
    """The numbers 0 … count − 1 in an order whose every beginning is spread evenly: steps of the golden ratio."""
    return (torch.arange(count) * 0.6180339887498949 % 1).argsort().argsort()


@torch.no_grad()
def leads_by_place(
    network: nn.Sequential, images: Tensor, predicted: Tensor, config: Config, max_memory: int
) -> Tensor:
    """(N, rows, columns): by how much the answers `predicted` (N,) surely lead with the patch at each of its places.

    The lower bound of the smallest margin, with room for rounding; where the answer is right it is certified if all
    are above 0, and in few cases where float64 needs less room.

    Args:
        images: (N, C, H, W) in [0, 1].
    """
    patch = config.eval_params.method_params.patch
    threat = Threat(patch, config.eval_params.epsilon)
    batch = Batch(network, images, predicted, threat, config.scale, (), max_memory, rounded=True)
    least = leads(all_margins(batch, all_places(images, patch)), predicted)  # (P, N)
    return least.T.unflatten(1, (images.shape[2] - patch.height + 1, images.shape[3] - patch.width + 1))


class _OnPixels(nn.Module):
    """A network as a function of images in [0, 1]."""

    def __init__(self, network: nn.Module, scale: Scale):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.scale.inputs(images))


def attacked(
    network: nn.Sequential,
    dataset: Dataset,
    config: Config,
    verdicts: Verdicts,
    seed: int,
    journal: Journal | None = None,
) -> Verdicts:
    """The verdicts with what projected gradient ascent on patches at random places flips, `method: adv`.

    Each process attacks its share of the images and gets what all of them found; the `journal` keeps its own.

    Raises:
        BrokenCertificateError: a certified image flipped.
    """
    share = distributed.share()
    part, right = dataset.take(share), (verdicts.predicted == dataset.labels)[share]
    flipped, targets = right.clone(), right.nonzero().squeeze(1)
    if len(targets):
        certified = verdicts.certified[share][targets]
        flipped[targets] = _flipped(network, part.take(targets.cpu()), config, certified, seed, journal)
    return replace(verdicts, flipped=distributed.merge(flipped, len(dataset)))


def _flipped(
    network: nn.Sequential, dataset: Dataset, config: Config, certified: Tensor, seed: int, journal: Journal | None
) -> Tensor:
    """(N,) bool: which images, all of them classified right, the attack flips."""
    params = config.eval_params.method_params
    images, batch_size = dataset.images / 255, config.eval_params.batch_size
    network.requires_grad_(False)
    classifier = undefended(_OnPixels(network, config.scale), *images.shape[2:])
    threat = PatchThreat(params.patch, classifier.ablation.to(images.device))
    outputs = torch.cat([*classifier.every_copy(images, batch_size)])
    targets = Targets(images, dataset.labels, dataset.indices, outputs, certified)
    ascent = Ascent(margin, params.steps, params.step_size, momentum=0.0)
    run = Attack(classifier, threat, ascent, targets, seed, batch_size, journal)
    try_random_places(run, params.random_mask_count)
    return run.findings.flipped


def about(config: Config, count: int, total: int) -> str:
    """What was asked of `count` of the data set's `total` test images, in one line."""
    asked = config.eval_params
    parts = [f"{config.dataset}: {count} of {total} test images", f"evaluated against {config.evaluated_against}"]
    if asked.method == "adv":
        attack = asked.method_params
        parts.append(f"attacked at {attack.random_mask_count} random places × {attack.steps} steps")
    return "; ".join(parts)


def errors(verdicts: Verdicts, labels: Tensor, seconds: float) -> dict:
    """What `--output` says of a model; errors are fractions of 1."""
    total, correct = len(labels), int((verdicts.predicted == labels).sum())
    certified_correct = int(verdicts.certified.sum())
    attack_results = {}
    if verdicts.flipped is not None:
        attack_results = {"attacked_error": 1 - (correct - int(verdicts.flipped.sum())) / total}
    return attack_results | {
        "total": total,
        "correct": correct,
        "certified_correct": certified_correct,
        "within_rounding": int(verdicts.within_rounding.sum()),
        "clean_error": 1 - correct / total,
        "certified_error": 1 - certified_correct / total,
        "seconds": seconds,
    }


def summary(models: list[dict]) -> dict[str, dict[str, float]]:
    """Minimum, maximum, median and mean of each kind of error over the models."""
    measures = {"min": min, "max": max, "median": median, "mean": mean}
    return {
        error: {name: measure([model[error] for model in models]) for name, measure in measures.items()}
        for error in models[0]
        if error.endswith("_error")
    }
