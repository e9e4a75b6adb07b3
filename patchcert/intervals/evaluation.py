"""Certified and clean error of a network: a certificate covers every place of the patch."""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import torch
from torch import Tensor, nn

from patchcert import checkpoint, distributed
from patchcert.attacks.ascent import Ascent, Attack, margin
from patchcert.attacks.classifier import undefended
from patchcert.attacks.searches import try_random_places
from patchcert.attacks.targets import Targets
from patchcert.attacks.threats import PatchThreat
from patchcert.data.dataset import Dataset
from patchcert.errors import UsageError
from patchcert.intervals.bounds import certified
from patchcert.intervals.config import Config, Model, require_settings
from patchcert.intervals.networks import network_of
from patchcert.intervals.places import Places, Scale, Threat, all_places
from patchcert.intervals.sparse import SparseThreat, sparse_margins
from patchcert.intervals.worst_places import Batch, all_margins
from patchcert.progress import progress_bar


@dataclass(frozen=True)
class Verdicts:
    """What is known of N images; axis 0 of every tensor is the image.

    Attributes:
        predicted: (N,) int64, the class of the largest logit.
        certified: (N,) bool, classified right whatever the threat model allows.
        flipped: (N,) bool, classified right until an attack changed that; None where there was no attack.
    """

    predicted: Tensor
    certified: Tensor
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
        if (folder / name).is_file():
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
    return network, {"checkpoint": str(path), "epoch": content.get("epoch")}


@torch.no_grad()
def verdicts(network: nn.Sequential, dataset: Dataset, config: Config, max_memory: int) -> Verdicts:
    """Classify and certify all images, at strength `eval_params:epsilon`; the bar shows the certified accuracy.

    Each process certifies its share of the images and gets the verdicts on all.
    """
    predicted, holds = [], []
    share = dataset.take(distributed.share())
    with progress_bar(len(share), "certifying") as bar:
        for images, labels in share.batches(config.eval_params.batch_size):
            predicted.append(network(config.scale.inputs(images)).argmax(dim=1))
            right = predicted[-1] == labels
            holds.append(_certify(network, images, labels, right, config, max_memory))
            bar.set_postfix(certified=f"{torch.cat(holds).double().mean():.2%}")
            bar.update(len(labels))
    return Verdicts(*(distributed.merge(torch.cat(parts), len(dataset)) for parts in (predicted, holds)))


def _certify(
    network: nn.Sequential, images: Tensor, labels: Tensor, right: Tensor, config: Config, max_memory: int
) -> Tensor:
    """(N,) bool: which of the images that are classified right (N,) are certified."""
    method, epsilon = config.eval_params.method_params, config.eval_params.epsilon
    if method.sparse:
        return _certify_sparse(network, images, labels, right, config, max_memory)
    batch = Batch(network, images, labels, Threat(method.patch, epsilon), config.scale, (), max_memory)
    return everywhere(batch, right)


def _certify_sparse(
    network: nn.Sequential, images: Tensor, labels: Tensor, right: Tensor, config: Config, max_memory: int
) -> Tensor:
    """As `_certify`. Tight bounds, which cost more, are computed where the plain ones, never tighter, do not do."""
    method = config.eval_params.method_params
    threat, holds = SparseThreat(method.k, config.eval_params.epsilon), torch.zeros_like(right)
    for tight in (False, True) if method.bound_type == "sparse-interval-tight" else (False,):
        left = (right & ~holds).nonzero().squeeze(1)
        if len(left):
            bounds = replace(threat, tight=tight)
            worst = sparse_margins(network, images[left], labels[left], bounds, config.scale, max_memory)
            holds[left] = certified(worst, labels[left])
    return holds


def everywhere(batch: Batch, hopeful: Tensor) -> Tensor:
    """(N,) bool: images of a batch that are certified at every place of the patch.

    Places are tried in chunks, spread over the image. An image leaves after the first chunk with a place where it
    is not certified.

    Args:
        hopeful: (N,) bool, images that can be certified at all: those classified correctly.
    """
    holds = hopeful.clone()
    everything = all_places(batch.images, batch.threat.patch)
    for images in batch.split(everything, with_gradients=False):
        part = batch.of(images)
        bounds, left, to_try = part.bounds(), holds[images].nonzero().squeeze(1), everything.corners
        to_try = to_try[spread(len(to_try))]
        while len(left) and len(to_try):
            places = Places(to_try, left)
            count = bounds.places_at_once(places, batch.max_memory)
            margins = bounds.margins(Places(to_try[:count], left))  # (P, B, K)
            worst = margins.amin(dim=0)
            left, to_try = left[certified(worst, part.labels[left])], to_try[count:]
        still = torch.zeros_like(part.labels, dtype=torch.bool)
        still[left] = True
        holds[images] = still
    return holds


def spread(count: int) -> Tensor:
    """The numbers 0 … count − 1 in an order whose every beginning is spread evenly: steps of the golden ratio."""
    return (torch.arange(count) * 0.6180339887498949 % 1).argsort().argsort()


@torch.no_grad()
def leads_by_place(
    network: nn.Sequential, images: Tensor, predicted: Tensor, config: Config, max_memory: int
) -> Tensor:
    """(N, rows, columns): by how much the answers `predicted` (N,) surely lead with the patch at each of its places.

    The lower bound of the smallest margin; where the answer is right it is certified if all are above 0.

    Args:
        images: (N, C, H, W) in [0, 1].
    """
    patch = config.eval_params.method_params.patch
    batch = Batch(network, images, predicted, Threat(patch, config.eval_params.epsilon), config.scale, (), max_memory)
    margins = all_margins(batch, all_places(images, patch))  # (P, N, K)
    own = predicted.expand(len(margins), -1)[:, :, None]
    least = margins.scatter(2, own, torch.inf).amin(dim=2)
    return least.T.unflatten(1, (images.shape[2] - patch.height + 1, images.shape[3] - patch.width + 1))


class _OnPixels(nn.Module):
    """A network as a function of images in [0, 1]."""

    def __init__(self, network: nn.Module, scale: Scale):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.scale.inputs(images))


def attacked(network: nn.Sequential, dataset: Dataset, config: Config, verdicts: Verdicts, seed: int) -> Verdicts:
    """The verdicts with what projected gradient ascent on patches at random places flips, `method: adv`.

    Each process attacks its share of the images and gets what all of them found.

    Raises:
        BrokenCertificateError: a certified image flipped.
    """
    share = distributed.share()
    part, right = dataset.take(share), (verdicts.predicted == dataset.labels)[share]
    flipped, targets = right.clone(), right.nonzero().squeeze(1)
    if len(targets):
        certified = verdicts.certified[share][targets]
        flipped[targets] = _flipped(network, part.take(targets.cpu()), config, certified, seed)
    return replace(verdicts, flipped=distributed.merge(flipped, len(dataset)))


def _flipped(network: nn.Sequential, dataset: Dataset, config: Config, certified: Tensor, seed: int) -> Tensor:
    """(N,) bool: which images, all of them classified right, the attack flips."""
    params = config.eval_params.method_params
    images, batch_size = dataset.images / 255, config.eval_params.batch_size
    network.requires_grad_(False)
    classifier = undefended(_OnPixels(network, config.scale), *images.shape[2:])
    threat = PatchThreat(params.patch, classifier.ablation.to(images.device))
    outputs = torch.cat([*classifier.every_copy(images, batch_size)])
    targets = Targets(images, dataset.labels, dataset.indices, outputs, certified)
    ascent = Ascent(margin, params.steps, params.step_size, momentum=0.0)
    run = Attack(classifier, threat, ascent, targets, seed, batch_size)
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
