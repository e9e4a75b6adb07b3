"""What a base classifier says of all copies without two windows, without asking for each where that can be spared."""

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

    coarse and fine being those of the base classifier without the two coarse and without the two fine windows in which
    the copy's own windows lie, and lead that of the largest coarse logit over the next, after what others say of the
    copy is added. So they follow from what the copy shows, without jumps, and fine copies are asked for only where
    coarse ones are unsure. Windows that lie in one coarse window get the mean of all copies that hide it; these, and
    such as lie in one fine window, are not refined.

    Args:
        network: base classifier, (B, 2C, H, W) to logits (B, K).
        sure: lead, in logits, from which on a coarse copy answers alone.
    """

    def __init__(self, network: nn.Module, ablation: RefinedPairs, sure: float):
        super().__init__()
        self.coarse, self.sure = EveryPair(network, ablation.coarse), sure
        pairs = torch.triu_indices(ablation.side**2, ablation.side**2, offset=1)
        of_coarse, of_fine = ablation.of_coarse[pairs], ablation.of_fine[pairs]
        refined = (of_coarse[0] != of_coarse[1]) & (of_fine[0] != of_fine[1])
        buffers = {
            "coarse_windows": of_coarse,
            "fine_copies": ablation.fine.pair_numbers()[*of_fine].where(refined, -1),
            "fine_masks": ablation.fine.masks(),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: Tensor, others: Tensor | float = 0.0) -> Tensor:
        """The logits (N, A, K) of all copies; `others` (N, A, K) are what else is known of each, in the same units."""
        without = self.coarse.ablation.without_both(self.coarse(images))[:, *self.coarse_windows]
        highest = (without + others).topk(2, dim=2).values
        share = ((highest[..., 0] - highest[..., 1]) / self.sure).clamp(max=1).masked_fill(self.fine_copies < 0, 1)
        fine = self._fine(encode(images), share < 1, classes=without.shape[2])
        share = share[..., None]
        return share * without + (1 - share) * fine[:, self.fine_copies]

    def _fine(self, encoded: Tensor, wanted: Tensor, classes: int) -> Tensor:
        """(N, fine copies, K): the logits of those that some of the `wanted` (N, A) copies take, else 0."""
        require_eval(self.coarse.network)
        asked = torch.zeros(len(encoded), len(self.fine_masks), dtype=torch.int64, device=encoded.device)
        numbers = self.fine_copies.clamp(min=0).expand_as(wanted)
        image, copy = asked.scatter_add_(1, numbers, wanted.long()).nonzero(as_tuple=True)
        pieces = zip(image.split(COPIES_AT_ONCE), copy.split(COPIES_AT_ONCE), strict=True)
        found = torch.cat([self.coarse.network(encoded[i] * self.fine_masks[c][:, None]) for i, c in pieces])
        return encoded.new_zeros(*asked.shape, classes).index_put((image, copy), found.to(encoded.dtype))
