"""Ordinary networks shown ablated copies: hidden pixels take a colour in place of zeros."""

from torch import Tensor, nn

from patchcert.ablations.ablation import Ablation
from patchcert.engines.plain import PlainNetwork


class PlainCopies(nn.Module):
    """A base classifier of encoded copies (B, 2C, H, W) that asks a network of whole images about them.

    Nothing of the network is changed or trained. Copies are shown upright, whichever way up their kind shows them.

    Args:
        plain: what is asked, and the colour of hidden pixels.
        ablation: the copies.
    """

    def __init__(self, plain: PlainNetwork, ablation: Ablation):
        super().__init__()
        self.plain, self.ablation = plain, ablation
        self.eval()

    def forward(self, copies: Tensor) -> Tensor:
        """(B, K): the logits of copies with channels (x, 1 − x), and zeros where pixels are hidden."""
        upright = self.ablation.as_seen(copies)  # which turns rows, and turned rows
        shown, inverse = upright.chunk(2, dim=1)
        hidden = (shown[:, 0] + inverse[:, 0]).detach() < 0.5
        return self.plain(shown, hidden)
