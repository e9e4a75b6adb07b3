"""An ordinary network made robust by hidden windows: PatchCleanser's two rounds, and alarms, as one classifier.

Xiang, Mahloujifar and Mittal, USENIX Security 2022. Nothing of the network is retrained.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import chain, repeat
from typing import Literal, overload

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from patchcert import networks
from patchcert.ablations.hidden_windows import NOTHING, HiddenWindows
from patchcert.arithmetic import Halves, require_as_set
from patchcert.classifiers import weak_spots
from patchcert.data.given import pixels
from patchcert.errors import UsageError, require_count, require_number, require_within
from patchcert.masking.alarms import Alarms
from patchcert.masking.answers import Answers
from patchcert.masking.noted import noted, numbers_of, pairs_of
from patchcert.masking.questions import Questions, WindowVerdict, ask_all, two_rounds
from patchcert.patch import Patch

Heard = Callable[[Tensor, Tensor], Answers]
"""Images (B, C, H, W) and the windows (B, 2) that are hidden in each to answers (B,)."""


class WindowMaskedClassifier(nn.Module):
    """A classifier that runs a network on images (N, C, H, W) in [0, 1] with one or two windows hidden.

    Args:
        network: a `PlainNetwork`. It maps images (B, C, H, W) and their hidden pixels (B, H, W) bool to logits (B, K).
        windows: `HiddenWindows`. One of them covers the patch, wherever it lies.
        batch_size: the number of masked images in a batch. Small batches are fastest on a CPU, because their feature
            maps fit into its caches.

    Raises:
        ValueError: the network is no module, the windows are no `HiddenWindows`, or `batch_size` is not a whole number
            of at least 1.
    """

    def __init__(self, network: nn.Module, windows: HiddenWindows, *, batch_size: int = 4):
        super().__init__()
        networks.require_module(network)
        if not isinstance(windows, HiddenWindows):
            raise UsageError("windows", type(windows).__name__, "expected HiddenWindows, such as those of for_patch")
        require_count("batch_size", batch_size, "masked images")
        self.network, self.windows, self.batch_size = network, windows, batch_size

    def extra_repr(self) -> str:
        return str(self.windows)

    @property
    def engine_name(self) -> str:
        """The engine as results name it: folded or dense, see `PlainNetwork`."""
        return getattr(self.network, "engine_name", "dense")

    @overload
    def predict(self, images: Tensor | ArrayLike, *, where: Literal[False] = False) -> Tensor: ...
    @overload
    def predict(self, images: Tensor | ArrayLike, *, where: Literal[True]) -> tuple[Tensor, Tensor]: ...
    def predict(self, images: Tensor | ArrayLike, *, where: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """The predictions of the two rounds, (N,) int64. If all windows agree, an image takes M passes.

        Args:
            where: whether to return the windows that dissent as well, (N, M) bool: hiding one of them gives another
                class than hiding most windows. They hint at where an image was tampered with. They are no certificate.

        Raises:
            ValueError: the images have another shape or type, or pixels outside [0, 1]; or the network rejects them.
        """
        found = list(self.verdicts(images, numerical_margin=0.0, certify=False))
        predicted = torch.tensor([verdict.predicted for verdict in found])
        return (predicted, torch.stack([verdict.dissenting for verdict in found])) if where else predicted

    def weak_spots(self, images: Tensor | ArrayLike, patch: Patch | None = None) -> Tensor:
        """For each place of the patch, the lead of the answer in logits, (N, rows, columns).

        If it is above the numerical margin, no patch at this place changes the answer. An image takes a pass for each
        window and for each pair of windows.

        Args:
            patch: a patch that the windows hide; by default the one that they were made for.

        Raises:
            ValueError: the windows do not hide this patch; or see `predict`.
        """
        shapes = self.windows.shapes if patch is None else [patch]
        if len(shapes) != 1 or not isinstance(shapes[0], Patch) or not self.windows.holds(shapes[0]):
            held = ", ".join(map(str, self.windows.shapes))
            raise UsageError("patch", patch, f"expected one Patch that fits into {held}, which these windows hide")
        found = []
        for verdict in self.verdicts(images, numerical_margin=0.0, everything=True):
            assert verdict.answers is not None, "they are noted"
            leads = weak_spots.leads_of(verdict.answers, verdict.predicted)
            least = weak_spots.least_of_windows(self.windows.count, leads)
            found.append(weak_spots.by_place(self.windows, shapes[0], least))
        return torch.stack(found)

    def verdicts(
        self,
        images: Tensor | ArrayLike,
        numerical_margin: float,
        certify: bool = True,
        note: bool = False,
        everything: bool = False,
    ) -> Iterator[WindowVerdict]:
        """Predictions and certificates of the images. An image is finished as soon as it cannot be certified.

        Args:
            numerical_margin: ν, in logits. Certified leads exceed it.
            certify: whether to hide pairs of windows if all single windows agree.
            note: whether verdicts hold all answers, see `noted`.
            everything: whether to hide pairs that decide nothing, too. All answers are then noted.

        Raises:
            ValueError: see `predict`; or ν is not a number of at least 0; or certificates are wanted, and the network
                computes in less than float32 by itself.
        """
        require_number("numerical_margin", numerical_margin, 0, math.inf)

        def questions() -> Questions:
            asked = two_rounds(self.windows.count, numerical_margin, certify)
            return noted(asked, self.windows.count, all_of_them=everything) if note or everything else asked

        opened = ((image, questions()) for image in self._pixels(images))
        return ask_all(opened, self._watched() if certify else self._heard, self.batch_size)

    def alarms(self, images: Tensor | ArrayLike, *, at_once: int = 1) -> Alarms:
        """What a defence with alarms answers to these images; see `Alarms`.

        An image takes M + 1 passes, and against two patches one more for each pair of windows.

        Args:
            at_once: how many such patches there may be, 1 or 2.

        Raises:
            ValueError: see `predict`; or `at_once` is neither 1 nor 2, or the network computes in less than float32 by
                itself.
        """
        require_within("at_once", at_once, 1, 2, "patches at the same time")
        every = pairs_of(self.windows.count)
        masked = every if at_once == 2 else every[: self.windows.count]
        found = self._answers(images, torch.cat([masked, torch.full((1, 2), NOTHING)]), self._watched())
        return alarms_of([answers[:-1] for answers in found], torch.cat([answers.classes[-1:] for answers in found]))

    def of_whole(self, images: Tensor | ArrayLike) -> Answers:
        """What the network answers if nothing is hidden, (N,).

        Raises:
            ValueError: see `predict`.
        """
        return Answers.concatenate(self._answers(images, torch.full((1, 2), NOTHING), self._heard))

    def _pixels(self, images: Tensor | ArrayLike) -> Tensor:
        return pixels(images, (self.windows.height, self.windows.width))

    def of_image(self, image: Tensor, pairs: Tensor) -> Tensor:
        """The logits (Q, K) for one image (C, H, W) with the windows `pairs` (Q, 2) hidden, on the CPU."""
        parts = pairs.split(self.batch_size)
        return torch.cat([self._logits(image.expand(len(p), -1, -1, -1), p).cpu() for p in parts])

    def _answers(self, images: Tensor | ArrayLike, pairs: Tensor, heard: Heard) -> list[Answers]:
        """For each of the images those without the windows `pairs` (Q, 2), as they are `heard`."""

        def questions() -> Generator[Tensor, Answers, Answers]:
            return (yield pairs)

        opened = ((image, questions()) for image in self._pixels(images))
        return list(ask_all(opened, heard, self.batch_size))

    def _watched(self) -> Heard:
        """`_heard`, which looks at the first answers: whether the network computes as exactly as PyTorch is set to.

        It raises ValueError if not, since numerical margins do not cover it.
        """

        def first(images: Tensor, pairs: Tensor) -> Answers:
            with Halves() as watch:
                answers = self._heard(images, pairs)
            require_as_set(watch.arithmetic, images.device)
            return answers

        asked = chain([first], repeat(self._heard))
        return lambda images, pairs: next(asked)(images, pairs)

    def _heard(self, images: Tensor, pairs: Tensor) -> Answers:
        """About images (B, C, H, W) without the windows `pairs` (B, 2), on the CPU."""
        return Answers.of(self._logits(images, pairs)).cpu()

    def logits(self, images: Tensor, pairs: Tensor) -> Tensor:
        """The logits (B, K) for images (B, C, H, W) with the windows `pairs` (B, 2) hidden, with gradients.

        Raises:
            ValueError: the network is in training mode.
        """
        networks.require_eval(self.network)
        return self.network(images.clone(), self.windows.hidden(pairs.to(images.device)))  # which may write into them

    @torch.inference_mode()
    def _logits(self, images: Tensor, pairs: Tensor) -> Tensor:
        return self.logits(images, pairs)


class OneImageAsked(WindowMaskedClassifier):
    """The same about one image alone, of which it keeps all that the network says: nothing is asked twice."""

    def __init__(self, classifier: WindowMaskedClassifier):
        super().__init__(classifier.network, classifier.windows, batch_size=classifier.batch_size)
        self.known: dict[int, Tensor] = {}  # by numbers of `noted`, the whole is −1: (K,)

    def _logits(self, images: Tensor, pairs: Tensor) -> Tensor:
        numbers = numbers_of(pairs, self.windows.count).tolist()
        missing = [place for place, number in enumerate(numbers) if number not in self.known]
        if missing:
            found = super()._logits(images[missing], pairs[missing])
            self.known |= dict(zip((numbers[place] for place in missing), found, strict=True))
        return torch.stack([self.known[number] for number in numbers])


def alarms_of(masked: Sequence[Answers], whole: Tensor) -> Alarms:
    """Alarms of N images from the answers to the masked ones, and the classes of the whole ones, (N,).

    Args:
        masked: for each image the answers without one window, (M,); against two patches also those without two, (Q,).
    """
    names = ("classes", "leads", "confidences", "certain")
    return Alarms.of(*(torch.stack([getattr(answers, name) for answers in masked]) for name in names), whole)
