"""What a base classifier says of copies without one or two windows, without asking for each where it can be spared."""

import torch
from torch import Tensor, nn

from patchcert.ablations.ablation import encode
from patchcert.ablations.windows import RefinedPairs, WindowPairs
from patchcert.engines.asking import DenseNetwork
from patchcert.networks import require_eval

COPIES_AT_ONCE = 256
"""Per call of the network, unless there are more images."""


class EveryPair(nn.Module):
    """Images (N, C, H, W) in [0, 1] to the logits (N, A, K) of the base classifier for all copies."""

    def __init__(self, network: nn.Module, ablation: WindowPairs):
        super().__init__()
        self.network, self.ablation = network, ablation

    def forward(self, images: Tensor) -> Tensor:
        encoded, engine = encode(images), DenseNetwork(self.network, self.ablation.to(images.device))
        chunks = self.ablation.chunks(max(1, COPIES_AT_ONCE // len(images)))
        return torch.cat([engine.logits(encoded, chunk).to(images.dtype) for chunk in chunks], dim=1)


class CoarsePairsFirst(nn.Module):
    """Images (N, C, H, W) in [0, 1] to logits (N, A, K) for all copies of `RefinedPairs`.

    Coarse windows hide more and make few copies, fine ones hide less and make many. The logits of a copy are

        t · coarse + (1 − t) · fine,    t = min(1, lead / sure),

    coarse and fine being those of the base classifier without the coarse and without the fine windows in which the
    copy's own windows lie, and lead that of the largest coarse logit over the next, after what others say of the copy
    is added. So they follow from what the copy shows, without jumps, and fine copies are asked for only where coarse
    ones are unsure.

    Args:
        network: base classifier, (B, 2C, H, W) to logits (B, K).
        sure: lead, in logits, from which on a coarse copy answers alone.

    Attributes:
        coarse_copies, fine_copies: (A,) int64, the numbers of those that a copy's logits come from.
        fine_masks: (fine copies, H, W) bool, what these show.
    """

    coarse_copies: Tensor
    fine_copies: Tensor
    fine_masks: Tensor

    def __init__(self, network: nn.Module, ablation: RefinedPairs, sure: float):
        super().__init__()
        self.coarse, self.sure = EveryPair(network, ablation.coarse), sure
        windows = ablation.windows_hidden()
        buffers = {
            "coarse_copies": ablation.coarse.copy_numbers()[*ablation.of_coarse[windows]],
            "fine_copies": ablation.fine.copy_numbers()[*ablation.of_fine[windows]],
            "fine_masks": ablation.fine.masks(),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: Tensor, others: Tensor | float = 0.0) -> Tensor:
        """The logits (N, A, K) of all copies; `others` (N, A, K) are what else is known of each, in the same units."""
        coarse = self.coarse(images)[:, self.coarse_copies]
        share = self.share(coarse, others)
        fine = self._fine(encode(images), share < 1, classes=coarse.shape[2])
        return self.mixed(share, coarse, fine[:, self.fine_copies])

    def share(self, coarse: Tensor, others: Tensor | float) -> Tensor:
        """(…): t of copies whose coarse logits are (…, K); `others` as of `forward`."""
        highest = (coarse + others).topk(2, dim=-1).values
        return ((highest[..., 0] - highest[..., 1]) / self.sure).clamp(max=1)

    def mixed(self, share: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
        """(…, K): the logits of copies of which t (…), coarse and fine logits are known."""
        share = share[..., None]
        return share * coarse + (1 - share) * fine

    def _fine(self, encoded: Tensor, wanted: Tensor, classes: int) -> Tensor:
        """(N, fine copies, K): the logits of those that some of the `wanted` (N, A) copies take, else 0."""
        require_eval(self.coarse.network)
        asked = torch.zeros(len(encoded), len(self.fine_masks), dtype=torch.int64, device=encoded.device)
        numbers = self.fine_copies.expand_as(wanted)
        image, copy = asked.scatter_add_(1, numbers, wanted.long()).nonzero(as_tuple=True)
        pieces = zip(image.split(COPIES_AT_ONCE), copy.split(COPIES_AT_ONCE), strict=True)
        found = torch.cat([self.coarse.network(encoded[i] * self.fine_masks[c][:, None]) for i, c in pieces])
        return encoded.new_zeros(*asked.shape, classes).index_put((image, copy), found.to(encoded.dtype))
