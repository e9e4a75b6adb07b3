"""Attacking any classifier with a patch, on images that the caller has."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from patchcert import networks
from patchcert.ablations.ablation import Whole
from patchcert.attacks.ascent import LOSSES, Ascent
from patchcert.attacks.deciding import attack_on
from patchcert.attacks.guessing import guess
from patchcert.attacks.searches import try_all_places, try_places, try_random_places
from patchcert.attacks.targets import Targets
from patchcert.attacks.threats import PatchThreat
from patchcert.attacks.undefended import undefended
from patchcert.attacks.windows import Effort, WindowAttack
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.window_masked import WindowMaskedClassifier
from patchcert.data.dataset import Dataset
from patchcert.data.given import given, require_classes
from patchcert.engines.plain import PlainNetwork, logits_of
from patchcert.errors import Note, UsageError, called, require_count, require_within
from patchcert.interface.examiners import SOON, device_of
from patchcert.patch import Patch, require_patch
from patchcert.patch_sizes import Share, in_pixels
from patchcert.progress import progress_bar

RANDOM, ALL = "random", "all"

LEAST_STEP = 0.05
"""Of a pixel's whole range; fewer than 40 steps are so large that they can cross it twice."""


@dataclass(frozen=True)
class Attacked:
    """The result of an attack on N images. `str()` gives it in one line. All tensors are on the CPU.

    Attributes:
        patch: the patch that was put into the images.
        images: (N, C, H, W) float32, the attacked images. Where the answer did not flip, the clean image.
        flipped: (N,) bool, True if the answer was right and is now wrong. Only images that were right are attacked.
        places: (N, 2) int64, row and column of the patch's upper left corner; −1 where the answer did not flip.
        labels: (N,) int64.
        predicted, predicted_after: (N,) int64, the classes before and after the attack.
    """

    patch: Patch
    images: Tensor = field(repr=False)
    flipped: Tensor = field(repr=False)
    places: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    predicted: Tensor = field(repr=False)
    predicted_after: Tensor = field(repr=False)

    @property
    def clean_accuracy(self) -> float:
        """The share of the images that are classified correctly."""
        return float((self.predicted == self.labels).double().mean())

    @property
    def attacked_accuracy(self) -> float:
        """The share of the images that are classified correctly after the attack. Robust accuracy is at most that."""
        return float((self.predicted_after == self.labels).double().mean())

    def __str__(self) -> str:
        shares = f"{self.clean_accuracy:.2%} clean, {self.attacked_accuracy:.2%} attacked"
        return f"patch {self.patch}: {shares} ({int(self.flipped.sum())} of {len(self.labels)} answers flipped)"


def attack(
    classifier: nn.Module,
    images: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    patch: Patch | Share,
    *,
    restarts: int = 20,
    steps: int = 40,
    seed: int = 0,
    places: str | Sequence[tuple[int, int]] = RANDOM,
    batch_size: int = 128,
) -> Attacked:
    """Look for patches that flip the answers of a classifier. Only the classifier's own answers count.

    The attack is projected gradient ascent with signed steps (Levine and Feizi, NeurIPS 2020). An answer that does not
    flip is not proven to be robust; `certify` gives proofs. The attack on a `WindowMaskedClassifier` begins at the pair
    of windows that comes nearest to failing. On a `MaskedClassifier` it begins at a random place. If a classifier
    returns only classes, or has no gradient, the attack guesses random contents, and a note says so.

    Args:
        classifier: one of this package; or any module that maps pixels in [0, 1], (N, C, H, W), to logits or votes
            (N, K), or to classes (N,). It may also return an object with an attribute `logits`, a dict with `logits` in
            it, or a dict or tuple with the logits first. The answer is the class with the largest number. The module is
            put into eval mode.
        images: (N, C, H, W), floats in [0, 1], or uint8.
        labels: (N,) whole numbers.
        patch: the patch. A `Share` becomes a `Patch` of so large a share of the images' pixels.
        restarts: the number of attempts for each image, each with the patch at a new place.
        steps: the number of gradient steps in each attempt.
        seed: fixes everything random.
        places: "random"; "all", from a coarse grid to a fine one; or (row, column) of the patch's upper left corner, or
            several of these, which the restarts take in turn.
        batch_size: the number of ablated copies in a batch, or of images if the network sees whole images.

    Raises:
        ValueError: images, labels, the patch or another argument is not valid; or the classifier fails on the images.
    """
    for name, count in (("restarts", restarts), ("steps", steps), ("batch_size", batch_size)):
        require_count(name, count, "copies or images" if name == "batch_size" else name)
    require_within("seed", seed, 0, 2**32 - 1, "as other libraries take them")
    if not isinstance(classifier, nn.Module):
        raise UsageError("classifier", type(classifier).__name__, "expected a torch.nn.Module")
    if labels is None:
        raise UsageError("labels", None, "expected whole numbers (N,): an attack flips answers that are right")
    dataset = given(images, labels, _size_of(classifier)).to(device_of(classifier))
    effort = Effort(restarts, steps, max(LEAST_STEP, 2 / steps))
    if not isinstance(classifier, (SmoothedClassifier, WindowMaskedClassifier, PlainNetwork)):
        classifier = _LogitsAlone(classifier)
    return _Run(classifier, _threat(patch, dataset), places, effort, seed, batch_size)(dataset)


class _LogitsAlone(nn.Module):
    """What any module says of images, without what else it returns beside logits."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.network(images))


class _Run:
    """One call of `attack`."""

    def __init__(
        self,
        classifier: nn.Module,
        threat: PatchThreat,
        places: str | Sequence[tuple[int, int]],
        effort: Effort,
        seed: int,
        batch_size: int,
    ):
        self.classifier, self.threat, self.effort = classifier, threat, effort
        self.seed, self.batch_size = seed, batch_size
        self.places = _numbers_of(places, threat)
        self.everywhere = places == ALL
        if self.everywhere and isinstance(classifier, WindowMaskedClassifier):
            raise UsageError("places", ALL, "expected random, or (row, column): windows say where to begin")
        networks.put_into_eval(classifier)

    def __call__(self, dataset: Dataset) -> Attacked:
        """How the attack on all of it ends."""
        labels = dataset.labels
        pixels = torch.cat([batch for batch, _ in dataset.batches(self.batch_size)])
        count = self._count_classes(pixels[:1])
        require_classes(labels, int(labels.max()) + 1 if count is None else count)
        predicted = self.decide(pixels)
        right = predicted == labels
        flipped, attacked, found = torch.zeros_like(right), pixels.clone(), torch.full_like(labels, -1)
        if right.any():
            outcome = self._attack(dataset.take(right.cpu()), pixels[right])
            flipped[right], attacked[right], found[right] = outcome
        after = predicted.clone()
        if flipped.any():  # what they are answered like any images, whatever the attack saw on its way
            after[flipped] = self.decide(attacked[flipped])
            flipped = flipped & (after != labels)
        rows, columns = found.div(self.threat.shape[1], rounding_mode="floor"), found % self.threat.shape[1]
        corners = torch.stack([rows, columns], dim=1).where(flipped[:, None], -1)
        attacked = attacked.where(flipped[:, None, None, None], pixels)
        tensors = (attacked, flipped, corners, labels, predicted, after)
        return Attacked(self.threat.patch, *(tensor.cpu() for tensor in tensors))

    @torch.no_grad()
    def decide(self, images: Tensor) -> Tensor:
        """(N,) int64: the answers to `images` (N, C, H, W)."""
        parts = images.split(self.batch_size)
        return torch.cat([self._answers(part).to(images.device) for part in parts])

    @torch.no_grad()
    def _count_classes(self, image: Tensor) -> int | None:
        """K, from an `image` (1, C, H, W); None if the classifier gives classes alone."""
        if isinstance(self.classifier, WindowMaskedClassifier):
            return self.classifier.logits(image, torch.zeros(1, 2, dtype=torch.int64)).shape[1]
        if isinstance(self.classifier, SmoothedClassifier):
            return self.classifier(image).shape[1]
        outputs = self._outputs(image)
        return outputs.shape[1] if outputs.dim() == 2 else None

    def _answers(self, images: Tensor) -> Tensor:
        if isinstance(self.classifier, WindowMaskedClassifier):
            return self.classifier.predict(images)
        if isinstance(self.classifier, SmoothedClassifier):
            return self.classifier.predict(images, self.batch_size)
        outputs = self._outputs(images)
        return outputs.argmax(dim=1) if outputs.dim() == 2 else outputs

    def _outputs(self, images: Tensor) -> Tensor:
        """Of a module: logits (N, K), or classes (N,) int64; ValueError if it gives something else."""
        outputs = self.classifier(images.clone())
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else None
        if shape == (len(images),) and not outputs.is_floating_point():
            return outputs.to(torch.int64)
        if shape is None or len(shape) != 2 or shape[0] != len(images) or shape[1] < 2:
            found = f"{outputs.dtype} {shape}" if shape is not None else f"a {type(outputs).__name__}"
            right = f"expected logits ({len(images)}, K), or classes ({len(images)},), whole numbers"
            raise ValueError(f"the classifier gives {found} for {len(images)} images, {right}")
        return outputs

    def _attack(self, dataset: Dataset, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which of the rightly classified images flipped, (N,) bool, as what, and the numbers of the places, (N,)."""
        if not self._hands_gradient(pixels[:1]):
            why = "the classifier gives classes alone, or no gradient"
            warnings.warn(Note(f"{why}: this attack can only guess, and others may flip more"), stacklevel=4)
            tries, steps = self._tries(len(dataset)).to(pixels.device), self.effort.steps
            return guess(self.decide, pixels, dataset.labels, self.threat, tries, steps, self.seed)
        if isinstance(self.classifier, WindowMaskedClassifier):
            return self._attack_windows(dataset, pixels)
        return self._attack_copies(dataset, pixels)

    def _attack_windows(self, dataset: Dataset, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = self.threat.shape
        corners = [divmod(place, shape[1]) for place in self.places]
        assert isinstance(self.classifier, WindowMaskedClassifier)
        one = WindowAttack(self.classifier, self.threat, self.effort, self.decide, self.seed, places=corners)
        attempts = []
        with progress_bar(len(dataset), "attacking", delay=SOON) as bar:
            for image, label, index in zip(pixels, dataset.labels.tolist(), dataset.indices.tolist(), strict=True):
                attempts.append(one(image, label, index))
                bar.update()
        flipped, places = ([getattr(attempt, name) for attempt in attempts] for name in ("flipped", "place"))
        device = pixels.device
        images = torch.stack([attempt.image for attempt in attempts])
        return torch.tensor(flipped, device=device), images, torch.tensor(places, device=device)

    def _attack_copies(self, dataset: Dataset, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        classifier = self.classifier
        if not isinstance(classifier, SmoothedClassifier):
            classifier = undefended(classifier, *dataset.image_shape[1:])
        with called(size_to_certify="patch"):
            threat = PatchThreat(self.threat.patch, classifier.ablation.to(pixels.device))
        with torch.no_grad():
            outputs = torch.cat(list(classifier.every_copy(pixels, self.batch_size)))
        nobody = torch.zeros_like(dataset.labels, dtype=torch.bool)
        targets = Targets(pixels, dataset.labels, dataset.indices, outputs, nobody)
        ascent = Ascent(LOSSES["margin"], self.effort.steps, self.effort.step_size, self.effort.momentum)
        run = attack_on(classifier, threat, ascent, targets, self.seed, self.batch_size)
        if run.climbs_blindly():
            why = "the gradient is exactly zero, as it is when a classifier rounds or is too sure"
            warnings.warn(Note(f"{why}: this attack can only guess, and others may flip more"), stacklevel=5)
        if self.everywhere:
            try_all_places(run, self.effort.restarts)
        elif self.places:
            try_places(run, self.effort.restarts, self.places)
        else:
            try_random_places(run, self.effort.restarts)
        return run.findings.flipped, run.findings.images, run.findings.place

    def _hands_gradient(self, image: Tensor) -> bool:
        """Whether what the classifier says of an `image` (1, C, H, W) has a gradient."""
        classifier, first = self.classifier, torch.zeros(1, dtype=torch.int64, device=image.device)
        shown = image.clone().requires_grad_() * 1  # which an operation made
        with torch.enable_grad():
            if isinstance(classifier, WindowMaskedClassifier):
                outputs = classifier.logits(shown, first[:, None].expand(1, 2))
            elif isinstance(classifier, SmoothedClassifier):
                classifier.engine(image)  # which moves the copies to where the images are
                try:
                    outputs = classifier.logits(shown, first, first)
                except ValueError:  # of which there is one, after it answered: that no gradient is handed on
                    return False
                return True
            else:
                outputs = classifier(shown)
            try:
                networks.require_gradient(outputs, shown)
            except ValueError:
                return False
        return outputs.is_floating_point()

    def _tries(self, count: int) -> Tensor:
        """(restarts, N): for each restart the places of the patch."""
        restarts, total = self.effort.restarts, self.threat.shape[0] * self.threat.shape[1]
        if self.everywhere:
            return torch.linspace(0, total - 1, restarts).round().long()[:, None].expand(-1, count)
        if self.places:
            return torch.tensor(self.places).repeat(restarts)[:restarts, None].expand(-1, count)
        return torch.randint(total, (restarts, count), generator=torch.Generator().manual_seed(self.seed))


def _size_of(classifier: nn.Module) -> tuple[int, int] | None:
    """(H, W) of the images that it takes, if only these will do."""
    if isinstance(classifier, SmoothedClassifier):
        return classifier.ablation.height, classifier.ablation.width
    if isinstance(classifier, WindowMaskedClassifier):
        return classifier.windows.height, classifier.windows.width
    return classifier.size if isinstance(classifier, PlainNetwork) else None


def _threat(size: Patch | Share, dataset: Dataset) -> PatchThreat:
    """The patch in these images; UsageError if it is none, or does not fit."""
    sides = dataset.image_shape[1:]
    patch = in_pixels(size, *sides)
    require_patch(patch, *sides)
    return PatchThreat(patch, Whole(*sides))


def _numbers_of(places: str | Sequence[tuple[int, int]], threat: PatchThreat) -> list[int]:
    """The numbers of the places that restarts take by turns; none if they are searched for."""
    if isinstance(places, str) and places in (RANDOM, ALL):
        return []
    rows, columns = threat.shape
    right = f"expected random, all or (row, column), rows from 0 to {rows - 1}, columns from 0 to {columns - 1}"
    try:
        corners = torch.as_tensor(places).reshape(-1, 2)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError("places", places, right) from error
    inside = (corners >= 0).all() and (corners < torch.tensor(threat.shape)).all()
    if corners.is_floating_point() or not len(corners) or not inside:
        raise UsageError("places", places, right)
    return [row * columns + column for row, column in corners.tolist()]
