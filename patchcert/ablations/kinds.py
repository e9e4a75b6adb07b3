"""All kinds of ablations, by the names under which files describe them."""

from patchcert.ablations.ablation import Ablation, Band, BandAndRow, Block, Row, Whole
from patchcert.ablations.choices import MultiBand, MultiBlock
from patchcert.ablations.windows import BandsAndWindows, RefinedPairs, WindowPairs

KINDS = {
    kind.__name__: kind
    for kind in (
        Band,
        Row,
        BandAndRow,
        Block,
        MultiBand,
        MultiBlock,
        WindowPairs,
        RefinedPairs,
        BandsAndWindows,
        Whole,
    )
}


def described(description: dict[str, str | int]) -> Ablation:
    """The ablation that gave this description."""
    sizes = dict(description)
    return KINDS[sizes.pop("kind")](**sizes)
