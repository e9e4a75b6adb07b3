"""How often the windows that dissent show where an attack has put its patch."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

HINT = "this hints at where the patch is, but it is no certificate"


@dataclass(frozen=True)
class Hints:
    """What the windows that dissent say of attacked images.

    Attributes:
        attacked: images in which the attack left a patch.
        dissenting: of these, how many are answered otherwise without some window than without most.
        covering: of these, on how many one of the windows that dissent covers the patch.
    """

    attacked: int
    dissenting: int
    covering: int

    @classmethod
    def of(cls, attacked: Tensor, columns: dict[str, Tensor]) -> Self:
        """Those of the images that are `attacked` (N,) bool, from the columns of `hint_columns`."""
        found = attacked, columns["dissenting"].any(dim=1), columns["dissent_covers"]
        return cls(*(int(images.sum()) for images in found))

    def lines(self) -> list[str]:
        """What there is to say."""
        found = f"the attack left a patch in {self.attacked} images; on {self.dissenting} of them some windows dissent"
        return [f"{found}, and on {self.covering} one of these covers the patch: {HINT}"]

    def as_json(self) -> dict:
        return {"where": vars(self)}


def hint_columns(dissenting: Tensor, covering: Tensor, places: Tensor) -> dict[str, Tensor]:
    """Columns of the table per image: the windows that dissent, and whether one of them covers the patch.

    Args:
        dissenting: (N, M) bool; of images without a patch none.
        covering: (M, L) bool, the windows that cover a patch at each of L places.
        places: (N,) int64, the place of the patch, any where there is none.
    """
    covers = dissenting & covering.to(dissenting.device)[:, places].T
    return {"dissenting": dissenting, "dissent_covers": covers.any(dim=1)}
