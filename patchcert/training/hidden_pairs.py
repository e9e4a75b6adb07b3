"""Training on images without two windows, which are drawn at random or searched for."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from patchcert.ablations.ablation import encode
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.training.objectives import Loss, Objective, are_right

Ask = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""A network, images (N, C, H, W) in [0, 1] and (N, H, W) bool, their hidden pixels, to logits (N, K)."""

REACH = 3
"""In a coarse search one of so many neighbouring windows is asked about first, along each side."""


def ask_encoded(network: nn.Module, images: Tensor, hidden: Tensor) -> Tensor:
    """Logits (N, K) of a network of encoded copies (N, 2C, H, W)."""
    return network(encode(images) * ~hidden[:, None])


class HiddenPair(Objective):
    """Images without two windows: a random pair for each at first, then one of those that the network knows least.

    Double masking asks for all of them. The network looks at some as it is evaluated, and learns from one. Measured is
    which images are right under the windows that a greedy search takes for the hardest.

    Args:
        tries: random pairs, of which each image's with the largest loss is learned from; 1 is one random pair, and
            None the pair that the greedy search finds.
        easy_epochs: how many epochs see one random pair.
        coarse: see `GreedySearch`.
        ask: how the network is asked.
        settings: what else must agree for an interrupted run to go on.
    """

    measured = "hardest pair test"

    def __init__(
        self,
        windows: HiddenWindows,
        tries: int | None,
        easy_epochs: int = 0,
        label_smoothing: float = 0.0,
        coarse: bool = False,
        ask: Ask = ask_encoded,
        settings: dict | None = None,
    ):
        self.windows, self.tries, self.easy_epochs, self.ask = windows, tries, easy_epochs, ask
        self.label_smoothing, self.more, self.epoch = label_smoothing, settings or {}, 0
        self.search = GreedySearch(windows, coarse)
        self.pairs = torch.triu_indices(windows.count, windows.count, offset=1).T  # (pairs, 2)

    def begin(self, epoch: int) -> None:
        self.epoch = epoch

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Loss:
        hidden = self.windows.hidden(self._chosen(network, images, labels, generator))
        logits = self.ask(network, images, hidden).float()
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing), are_right(logits, labels)

    def right(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return self.search(network, images, labels, self.ask)[1]

    def settings(self, network: nn.Module) -> dict:
        tries = {"tries": self.tries} if self.tries else {}
        return tries | ({"easy_epochs": self.easy_epochs} if self.easy_epochs else {}) | self.more

    @torch.no_grad()
    def _chosen(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """(N, 2): the windows that each image is learned without."""
        tries = 1 if self.epoch < self.easy_epochs else self.tries
        drawn = [self._drawn(labels, generator) for _ in range(tries or 0)]
        if tries == 1:
            return drawn[0]
        network.eval()
        if tries is None:
            chosen = self.search(network, images, labels, self.ask)[0]
        else:
            asked = [self.ask(network, images, self.windows.hidden(pairs)).float() for pairs in drawn]
            losses = torch.stack([cross_entropy(logits, labels, reduction="none") for logits in asked])
            chosen = torch.stack(drawn)[losses.argmax(dim=0), torch.arange(len(labels), device=labels.device)]
        network.train()
        return chosen

    def _drawn(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """(N, 2): a random pair of different windows for each image."""
        numbers = torch.randint(len(self.pairs), (len(labels),), generator=generator, device=labels.device)
        return self.pairs.to(labels.device)[numbers]


class GreedySearch:
    """Two windows for each image, found greedily: the worst single one, and the worst one beside it.

    Worst is where the loss is largest. That asks for 2k² copies of each image, not for all pairs. A coarse search asks
    at first about every third window along each side, and then about the eight around the worst of these: for 6 × 6
    windows 24 copies instead of 72. Where there are no more than 3 × 3 windows it asks about all of them.

    Args:
        windows: for a coarse search k × k of them, row by row.
    """

    def __init__(self, windows: HiddenWindows, coarse: bool):
        self.windows, self.first, self.around = windows, torch.arange(windows.count), None
        if coarse and windows.count > REACH**2:
            self.first, self.around = _coarse(windows)

    @torch.no_grad()
    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, ask: Ask) -> tuple[Tensor, Tensor]:
        """Ask about N images (N, C, H, W) with labels (N,).

        Returns:
            (N, 2) int64, the windows, and (N,) float, 1 where the network, in evaluation mode, is right about all
            copies that it was asked for.
        """
        right, nothing = torch.ones(len(images), device=images.device), torch.full_like(labels, -1)

        def losses(first: Tensor, second: Tensor) -> Tensor:
            """(N,): without two windows (N,) each."""
            nonlocal right
            logits = ask(network, images, self.windows.hidden(torch.stack([first, second], dim=1))).float()
            right = torch.minimum(right, are_right(logits, labels))
            return cross_entropy(logits, labels, reduction="none")

        first = self._worst(labels, lambda window: losses(window, nothing))
        second = self._worst(labels, lambda window: losses(first, window).where(window != first, -torch.inf))
        return torch.stack([first, second], dim=1), right

    def _worst(self, labels: Tensor, losses: Callable[[Tensor], Tensor]) -> Tensor:
        """(N,): for each image the window for which `losses` of windows (N,) are largest."""
        asked = self.first.to(labels.device)[:, None].expand(-1, len(labels))  # (windows, N)
        found = torch.stack([losses(window) for window in asked])
        if self.around is not None:
            worst = asked.gather(0, found.argmax(dim=0, keepdim=True))[0]
            around = self.around.to(labels.device)[worst].T
            asked, found = torch.cat([asked, around]), torch.cat([found, torch.stack([*map(losses, around)])])
        return asked.gather(0, found.argmax(dim=0, keepdim=True))[0]


def _coarse(windows: HiddenWindows) -> tuple[Tensor, Tensor]:
    """(n,) windows, of which each one has one around it, and (M, 8) the windows around each; beyond a border itself."""
    sides = [len(spans.unique(dim=0)) for spans in windows.rectangles.split(2, dim=1)]
    numbers = torch.arange(windows.count).view(sides)
    spread = [torch.arange(1, side + 1, REACH).clamp(max=side - 1).unique() for side in sides]
    rows, columns = ((torch.arange(side)[:, None] + torch.arange(-1, 2)).clamp(0, side - 1) for side in sides)  # (k, 3)
    around = numbers[rows[:, None, :, None], columns[None, :, None, :]].flatten(2).flatten(0, 1)  # (M, 9)
    return numbers[spread[0]][:, spread[1]].flatten(), torch.cat([around[:, :4], around[:, 5:]], dim=1)
