"""What an adversary may overwrite, whichever defence stands against it."""

from dataclasses import dataclass

from patchcert.errors import UsageError, require_count


@dataclass(frozen=True)
class Patch:
    """A rectangle of `height` × `width` pixels, anywhere in the image, that an adversary may overwrite.

    Args:
        height: the number of rows.
        width: the number of columns. If it is left out, the patch is a square.

    Raises:
        UsageError: a side is not a whole number of at least 1.
    """

    height: int
    width: int = None  # type: ignore[assignment]  # until __post_init__, which gives a square its width

    def __post_init__(self) -> None:
        if self.width is None:
            object.__setattr__(self, "width", self.height)
        for name, pixels in vars(self).items():
            require_count(name, pixels, "pixels of the patch")
            object.__setattr__(self, name, int(pixels))  # of NumPy, which JSON does not take

    @property
    def size(self) -> int | str:
        """The size as people write it: 5 for a square, and "2x8" for 2 rows × 8 columns."""
        return self.height if self.height == self.width else f"{self.height}x{self.width}"

    def __str__(self) -> str:
        return str(self.size)


def require_fits(option: str, patch: Patch, height: int, width: int) -> None:
    """Raise UsageError unless `patch`, which an option or argument names, fits into images of height × width pixels."""
    if patch.height > height or patch.width > width:
        raise UsageError(option, patch, f"expected a patch that fits into {height} × {width} pixels")


def require_patch(patch: object, height: int, width: int) -> None:
    """Raise UsageError unless the argument `patch` is a `Patch`, and fits into images of height × width pixels."""
    if not isinstance(patch, Patch):
        raise UsageError("patch", patch, "expected a Patch(height, width) or a Share(percent)")
    require_fits("patch", patch, height, width)
