"""What an adversary may overwrite, whichever defence stands against it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """A rectangle of `height` × `width` pixels that an adversary may overwrite anywhere inside the image."""

    height: int
    width: int

    @property
    def size(self) -> int | str:
        """As people write it: 5 for a square, 2x8 for 2 rows × 8 columns."""
        return self.height if self.height == self.width else f"{self.height}x{self.width}"

    def __str__(self) -> str:
        return str(self.size)
