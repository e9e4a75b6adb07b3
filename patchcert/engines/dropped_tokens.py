"""Vision transformers that compute only the tokens whose patches show something: hidden tokens are dropped.

A transformer cuts the image into patches and makes a token of each. Where all of a patch is hidden, its token can be
left out of attention and of pooling, and need not be computed: what is left is what attention that masks it out gives.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcert.comparing import Comparison

DROP = "drop"
"""What stands in a colour's place where tokens are dropped."""

TRANSFORMER = "timm.models.vision_transformer.VisionTransformer"

EMBEDDING = "timm.layers.patch_embed.PatchEmbed"
"""It looks at each patch alone."""

BLOCKS = {
    f"timm.models.vision_transformer.{name}"
    for name in ("Block", "ResPostBlock", "ParallelScalingBlock", "DiffParallelScalingBlock", "ParallelThingsBlock")
}
"""They compute the same for a token wherever its patch lies."""

RIGHT = f"hidden is {DROP!r}, expected a colour, or a plain VisionTransformer of timm"


class KeptTokens(nn.Module):
    """A `VisionTransformer` of timm's on the tokens of patches that show at least one pixel.

    The position embedding is added first; then the tokens of hidden patches are dropped. Class token and registers
    stay. Images with equally many tokens are asked together, so none is padded.

    Args:
        network: in eval mode.

    Raises:
        ValueError: it is another network, or a `VisionTransformer` with parts to which the order of tokens matters.
    """

    network: Any  # timm may not be there to name its class

    def __init__(self, network: nn.Module):
        super().__init__()
        _require_plain(network)
        self.network = network
        self.eval()
        self._require_same_answers()

    def forward(self, shown: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, K): the logits.

        Args:
            shown: (B, C, H, W) as the network takes them, with hidden pixels painted: a patch that is hidden in part
                is seen as painted.
            hidden: (B, H, W) bool.

        Raises:
            ValueError: all of an image is hidden, and the network pools over the patches' tokens.
        """
        if hidden is None:
            return self.network(shown)
        kept = self._kept(hidden)
        tokens, counts = self._tokens(shown), kept.sum(dim=1)
        groups = [(counts == count).nonzero()[:, 0] for count in counts.unique()]
        logits = torch.cat(
            [self._answer(tokens[group][kept[group]].unflatten(0, (len(group), -1))) for group in groups]
        )
        return logits[torch.cat(groups).argsort()]

    def _tokens(self, shown: Tensor) -> Tensor:
        """(B, T, D): of class and registers, then of all patches, each with its position."""
        return self.network._pos_embed(self.network.patch_embed(shown))

    def _kept(self, hidden: Tensor) -> Tensor:
        """(B, T) bool: which tokens stay."""
        embedding, first = self.network.patch_embed, self.network.num_prefix_tokens
        showing = (~hidden).float()[:, None]
        kept = F.max_pool2d(showing, embedding.patch_size, ceil_mode=embedding.dynamic_img_pad).flatten(1) > 0
        if self.network.global_pool != "token" and not kept.any(dim=1).all():
            raise ValueError("an image is wholly hidden; this network pools over visible tokens")
        return F.pad(kept, (first, 0), value=True)

    def _answer(self, tokens: Tensor) -> Tensor:
        network = self.network
        return network.forward_head(network.norm(network.blocks(network.norm_pre(tokens))))

    @torch.no_grad()
    def _require_same_answers(self) -> None:
        """Raise ValueError unless the network says the same where patches' tokens come in the opposite order."""
        embedding, first = self.network.patch_embed, self.network.num_prefix_tokens
        shape = (2, embedding.proj.in_channels, *embedding.img_size)
        shown = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(embedding.proj.weight.device)
        own = Comparison(partial(self.network, shown))
        tokens = self._tokens(shown)
        turned = torch.cat([tokens[:, :first], tokens[:, first:].flip(1)], dim=1)
        right = f"{RIGHT} that do not depend on the order of tokens"
        own.require_close(own.first, self._answer(turned), right)


def _require_plain(network: Any) -> None:
    """Raise ValueError unless the network and its parts are those whose tokens may be dropped."""
    if _name(network) != TRANSFORMER:
        raise ValueError(f"{RIGHT}, the network is a {type(network).__name__}")
    if _name(network.patch_embed) != EMBEDDING:
        raise ValueError(f"{RIGHT}, this one makes tokens by a {type(network.patch_embed).__name__}")
    others = sorted({type(block).__name__ for block in network.blocks if _name(block) not in BLOCKS})
    if others:
        raise ValueError(f"{RIGHT}, this one has blocks of the class {', '.join(others)}")


def _name(part: nn.Module) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"
