"""What a base classifier says of copies without one or two windows, without asking about copies that can be spared.

How far rounding moves a mixture of two kinds of copies: let c and f be the coarse and the fine logits, with magnitudes
M_c and M_f. Let o be what others, the bands, say, with magnitude M_o. Each is off by up to a share ε of its magnitude.
Then the lead of the largest c + o over the next is off by up to 2ε (M_c + M_o), and t by that divided by sure. So the
difference of two logits t c + (1 − t) f is off by up to

    2ε max(M_c, M_f) + 2ε (M_c + M_o) / sure · R,

where R is the largest of c − f less the smallest. For one kind of copies alone it would be 2ε M_c. So the magnitude of
the mixture is max(M_c, M_f) + (M_c + M_o) R / sure. If the lead is at least sure even when reduced by what it may be
off by, t is 1 for certain. Then fine copies are not asked about, and the magnitude is M_c.
"""

import torch
from torch import Tensor, nn

from patchcert.ablations.ablation import encode
from patchcert.ablations.windows import RefinedPairs, WindowPairs
from patchcert.arithmetic import RELATIVE_MARGINS, coarsest
from patchcert.engines.added_up import parted
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
    """Images (N, C, H, W) in [0, 1] to logits and magnitudes (N, A, K + 1) for all copies of `RefinedPairs`.

    Coarse windows hide more and make few copies, fine ones hide less and make many. The logits of a copy are

        t · coarse + (1 − t) · fine,    t = min(1, lead / sure),

    coarse and fine being those of the base classifier without the coarse and without the fine windows in which the
    copy's own windows lie, and lead that of the largest coarse logit over the next, after what others say of the copy
    is added. So they follow from what the copy shows, without jumps, and fine copies are asked for only where coarse
    ones are unsure.

    Args:
        network: base classifier, (B, 2C, H, W) to logits and magnitudes (B, K + 1), see `added_up`.
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
        """(N, A, K + 1), of all copies; `others` (N, A, K + 1) are what else is known of each, in the same units."""
        coarse = self.coarse(images)[:, self.coarse_copies]
        fine = self._fine(encode(images), ~self.settled(coarse, others), columns=coarse.shape[2])
        return self.mixed(coarse, others, fine[:, self.fine_copies])

    def settled(self, coarse: Tensor, others: Tensor | float) -> Tensor:
        """(…) bool: whether copies with these coarse answers (…, K + 1) take no fine ones, however the lead is rounded.

        Args:
            others: as of `forward`.
        """
        lead, added_up = self._lead(coarse, others)
        return lead - RELATIVE_MARGINS[coarsest(coarse.device)] * added_up >= self.sure

    def mixed(self, coarse: Tensor, others: Tensor | float, fine: Tensor) -> Tensor:
        """(…, K + 1): of copies of which coarse and fine answers are known; the fine ones of settled copies may be any.

        Args:
            others: as of `forward`.
        """
        lead, added_up = self._lead(coarse, others)
        share = (lead / self.sure).clamp(max=1)[..., None]
        logits, _ = parted(share * coarse + (1 - share) * fine)
        apart, _ = parted(coarse - fine)
        steep = (apart.amax(dim=-1) - apart.amin(dim=-1)) * added_up / self.sure
        magnitudes = torch.maximum(coarse, fine)[..., -1] + steep
        mixture = torch.cat([logits, magnitudes[..., None]], dim=-1)
        return coarse.where(self.settled(coarse, others)[..., None], mixture)

    def _lead(self, coarse: Tensor, others: Tensor | float) -> tuple[Tensor, Tensor]:
        """(…) each: the lead of coarse answers (…, K + 1) with `others`, and what was added up for it."""
        logits, added_up = parted(coarse + others)
        highest = logits.topk(2, dim=-1).values
        return highest[..., 0] - highest[..., 1], added_up

    def _fine(self, encoded: Tensor, wanted: Tensor, columns: int) -> Tensor:
        """(N, fine copies, K + 1): the answers of those that some of the `wanted` (N, A) copies take, else 0."""
        require_eval(self.coarse.network)
        asked = torch.zeros(len(encoded), len(self.fine_masks), dtype=torch.int64, device=encoded.device)
        numbers = self.fine_copies.expand_as(wanted)
        image, copy = asked.scatter_add_(1, numbers, wanted.long()).nonzero(as_tuple=True)
        pieces = zip(image.split(COPIES_AT_ONCE), copy.split(COPIES_AT_ONCE), strict=True)
        found = torch.cat([self.coarse.network(encoded[i] * self.fine_masks[c][:, None]) for i, c in pieces])
        return encoded.new_zeros(*asked.shape, columns).index_put((image, copy), found.to(encoded.dtype))
