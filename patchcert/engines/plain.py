"""Networks that others trained, as they are: what they say of images in which some pixels are hidden."""

from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from patchcert import networks
from patchcert.arithmetic import require_as_set
from patchcert.comparing import Comparison
from patchcert.engines.dropped_tokens import DROP, KeptTokens
from patchcert.engines.folding import Folded, NotFoldedError, folded
from patchcert.errors import UsageError

MEAN = "mean"
"""The colour that a network's normalisation takes to 0."""

BESIDE = "a network must give an image the same answer whatever else is in the batch"

OFF_ONE = 1e-4
"""So much do probabilities in float32 add up to more or less than 1, and logits hardly ever."""


class PlainNetwork(nn.Module):
    """Maps pixels (B, C, H, W) in [0, 1], some of which may be hidden, to logits (B, K) float32.

    The network itself stays unchanged. It gets a tensor of its own, so it may work in place.

    Args:
        network: maps normalised images (B, C, H, W) to logits (B, K). It is in eval mode and has float32 weights. It
            may also return an object with an attribute `logits`, a dict with `logits` in it, or a dict or tuple with
            the logits first.
        mean, std: the network sees (x − mean) / std. Each is a number, or one for each channel.
        hidden: the colour of hidden pixels, in [0, 1]: a number, or one for each channel. "mean" is the colour that
            normalises to 0. "drop" shows the mean, too, and also leaves out the tokens of patches that are wholly
            hidden. That is another classifier, and only timm's `VisionTransformer` supports it.
        size: (H, W) of the images, if the network takes only one size.

    Attributes:
        labels: the names of the classes by their numbers; empty if nobody said.

    Raises:
        ValueError: the network is no module, is in training mode, returns features in place of classes, or has weights
            of another type; `mean`, `std`, `hidden` or `size` is not valid; or `hidden` is "drop" and the network has
            no tokens.
    """

    mean: Tensor  # (C or 1, 1, 1), as are std and colour
    std: Tensor
    colour: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        hidden: str | float | Sequence[float] = MEAN,
        size: tuple[int, int] | None = None,
    ):
        super().__init__()
        networks.require_module(network)
        _require_ready(network)
        self.network: nn.Module = network
        self.size = None if size is None else _sides(size)
        self.labels: tuple[str, ...] = ()
        of_mean = isinstance(hidden, str) and hidden in (MEAN, DROP)
        colours = _colours("mean", mean), _colours("std", std), _colours("hidden", mean if of_mean else hidden)
        if len({len(values) for values in colours} - {1}) > 1:
            raise ValueError(f"mean, std and hidden are {mean}, {std} and {hidden}, expected equally many values")
        if not (colours[1] > 0).all():
            raise ValueError(f"std is {std}, expected numbers above 0")
        if not of_mean and not ((colours[2] >= 0) & (colours[2] <= 1)).all():
            raise ValueError(f"hidden is {hidden}, expected a colour in [0, 1], {MEAN!r} or {DROP!r}")
        for name, values in zip(("mean", "std", "colour"), torch.broadcast_tensors(*colours), strict=True):
            self.register_buffer(name, values[:, None, None].clone(), persistent=False)
        if of_mean and hidden == DROP:
            self.network = KeptTokens(network)
        self.eval()

    def extra_repr(self) -> str:
        named = {"mean": self.mean, "std": self.std, "hidden": self.colour}
        said = [f"{name}={[round(value, 4) for value in tensor.flatten().tolist()]}" for name, tensor in named.items()]
        return ", ".join([*said, f"size={self.size}"])

    def forward(self, images: Tensor, hidden: Tensor | None = None) -> Tensor:
        """The logits (B, K) float32 of `images` (B, C, H, W) in [0, 1].

        Args:
            hidden: (B, H, W) bool, the pixels that are hidden.

        Raises:
            ValueError: the network rejects such images, is in training mode, or does not return logits.
            FloatingPointError: a logit is not finite.
        """
        self._require_images(images, hidden)
        networks.require_eval(self.network)
        ask = partial(self._asked, hidden=hidden)
        logits = networks.answer(ask, self._shown(images, hidden), "images", len(images))
        if len(logits) > 1 and networks.are_probabilities(logits, OFF_ONE):  # one row of logits might look so by chance
            raise ValueError("the network gives probabilities, expected logits: take its softmax away")
        return networks.finite(logits.float())

    def ask(self, network: nn.Module, images: Tensor, hidden: Tensor | None = None) -> Tensor:
        """The logits (B, K) of another network in place of this one. It may be in training mode. Nothing is checked.

        Args:
            images, hidden: as for `forward`.
        """
        return logits_of(network(self._shown(images, hidden)))

    @property
    def drops_tokens(self) -> bool:
        """Whether hidden patches lose their tokens, in place of being shown in a colour."""
        return isinstance(self.network, KeptTokens)

    @property
    def engine_name(self) -> str:
        """The engine as results name it: folded after `fold`, otherwise dense, which is the network as it is."""
        return "folded" if isinstance(self.network, Folded) else "dense"

    @torch.no_grad()
    def fold(self, images: Tensor) -> str | None:
        """From now on, use a copy of the network in which normalisations are part of the convolutions before them.

        The copy is faster. It gives the same logits up to rounding, and it has gradients. Your network stays as it is,
        and later changes to it do not reach the copy. If a network cannot be folded, it is used as it is.

        Args:
            images: as for `forward`. The copy is tested on them.

        Returns:
            The reason why the network could not be folded, in words; None if it was folded.

        Raises:
            ValueError: as for `forward`; or an answer depends on the rest of the batch, or on chance.
        """
        if isinstance(self.network, Folded):
            return None
        before, as_it_was = Comparison(partial(self, images)), self.network
        before.require_equal_beside_others(self, images, before.first, BESIDE)
        if self.drops_tokens:
            return "tokens are dropped"
        try:
            made = folded(as_it_was)
        except NotFoldedError as error:
            return str(error)
        for layout in (torch.channels_last, torch.contiguous_format):  # some networks need rows of one channel
            self.network = made.to(memory_format=layout)
            try:
                before.require_close(before.first, self(images), "folded, it must answer as it did")
                return None
            except (ValueError, FloatingPointError) as error:
                self.network, refused = as_it_was, str(error)
        return refused

    @torch.no_grad()
    def classes(self, images: Tensor) -> int:
        """K, the number of classes.

        It is found by running some `images` (B, C, H, W), two or more. Half of them are half hidden.

        Raises:
            ValueError: as for `forward`; or an answer depends on the rest of the batch, or on chance.
        """
        hidden = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
        hidden[::2, :, : images.shape[3] // 2] = True
        together = Comparison(partial(self, images, hidden))
        require_as_set(together.arithmetic, images.device)
        alone = torch.cat([self(images[i : i + 1], hidden[i : i + 1]) for i in range(len(images))])
        together.require_close(together.first, alone, BESIDE)
        together.require_equal_beside_others(lambda shown: self(shown, hidden), images, together.first, BESIDE)
        return together.first.shape[1]

    def _shown(self, images: Tensor, hidden: Tensor | None) -> Tensor:
        """(B, C, H, W) float32: what a network is given of `images`."""
        shown = images.float()
        if hidden is not None:
            shown = torch.where(hidden[:, None], self.colour, shown)
        return (shown - self.mean) / self.std

    def _asked(self, shown: Tensor, hidden: Tensor | None) -> Any:
        return logits_of(self.network(shown, hidden) if self.drops_tokens else self.network(shown))

    def _require_images(self, images: Tensor, hidden: Tensor | None) -> None:
        found = f"images are {images.dtype} {tuple(images.shape)}, expected"
        if images.dim() != 4 or not images.is_floating_point():
            raise ValueError(f"{found} floats in [0, 1], (B, C, H, W)")
        if self.size and tuple(images.shape[2:]) != self.size:
            raise ValueError(f"{found} (B, C, {self.size[0]}, {self.size[1]}), the size that this network takes")
        if len(self.mean) not in (1, images.shape[1]):
            raise ValueError(f"{found} {len(self.mean)} channels, as many as mean and std have")
        shape = (len(images), *images.shape[2:])
        if hidden is not None and (hidden.dtype != torch.bool or tuple(hidden.shape) != shape):
            raise ValueError(f"hidden is {hidden.dtype} {tuple(hidden.shape)}, expected torch.bool {shape}")


def _require_ready(network: nn.Module) -> None:
    """Raise ValueError unless the network is one that answers with classes, in eval mode and in float32."""
    networks.require_eval(network)
    if getattr(network, "num_classes", None) == 0:  # as timm says it
        raise ValueError("the network gives features and no classes; expected one with a head that tells classes apart")
    types = {weight.dtype for weight in network.parameters()} - {torch.float32}
    if types:
        right = "there nearly equal logits would tie; call network.float()"
        raise ValueError(f"the network has weights of {', '.join(sorted(map(str, types)))}, expected float32: {right}")


def _sides(size: Sequence[int]) -> tuple[int, int]:
    """(H, W)."""
    sides = tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(isinstance(side, Integral) and side > 0 for side in sides):
        raise UsageError("size", size, "expected (height, width) of the images, in pixels, or None")
    return sides


def _colours(name: str, values: str | float | Sequence[float]) -> Tensor:
    """(C or 1,) float32."""
    try:
        tensor = torch.as_tensor(values, dtype=torch.float32).flatten()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {values!r}, expected a number, or one for each channel") from error
    if not len(tensor) or not tensor.isfinite().all():
        raise ValueError(f"{name} is {values!r}, expected finite numbers")
    return tensor


def logits_of(outputs: Any) -> Any:
    """What of a network's outputs are its logits, if any are."""
    found = getattr(outputs, "logits", outputs)
    if isinstance(found, Mapping):
        return found.get("logits", next(iter(found.values()), None))
    return next(iter(found), None) if isinstance(found, (tuple, list)) else found
