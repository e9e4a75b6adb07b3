"""Double masking of hidden windows, and of bands and windows at once: a place leaves out copies that do not hide it.

Copies that hide two windows see nearly the whole image. Copies that show one band see little that a patch could touch.
Where one kind is unsure, the other often knows the answer, so their scores together can certify more than either.
Columns and rows are touched independently of each other, but which window hides a place follows from its row and its
column.
"""

from typing import Self

import torch
from torch import Tensor

from patchcert.ablations.ablation import Ablation
from patchcert.ablations.windows import BandsAndWindows, WindowPairs
from patchcert.errors import UsageError
from patchcert.masking.answers import dissenting
from patchcert.masking.any_shape import ShapesMasking
from patchcert.masking.double_masking import (
    TEMPERATURE,
    DoubleMasking,
    ahead,
    in_two_rounds,
    least_ahead,
    paired,
    worst_of_groups,
)
from patchcert.patch import Patch
from patchcert.patch_sizes import Area, shapes


class WindowMasking(DoubleMasking):
    """The two-round prediction from the scores of all copies of `WindowPairs`, and its certificate: PatchCleanser's.

    Some window holds the patch wherever it lies. A place is a window here; left out are all copies but those that hide
    it. For a window alone the score is that of the copy without it, for two that of the copy without both.

    Attributes:
        touched: (k², A) bool in a list, the copies that do not hide each window; `kept` is empty.
        holding: for each row, and column, at which the patch can begin the row, or column, of windows that hold it.
        window_at: (P,) int64, the number of the window that is hidden for each of the places.

    Raises:
        UsageError: no window holds the patch, or two patches are asked about.
    """

    temperature = 1.0

    def __init__(self, ablation: WindowPairs, patch: Patch, patches: int = 1):
        if patches != 1:
            raise UsageError("patches", patches, "expected 1: windows are masked against one patch, or two as alarms")
        self.side, self.windows = ablation.side, ablation
        self.holding = list(ablation.holding(patch))
        every = torch.arange(self.side**2, device=ablation.cells.device)
        self.touched = [(every[:, None, None] != ablation.windows_hidden()).all(dim=1)]
        self.kept, self.sizes, self.window_at = [], [ablation.count], every

    def to(self, device: torch.device | str) -> Self:
        self.holding = [along.to(device) for along in self.holding]
        self.window_at = self.window_at.to(device)
        self.windows.to(device)
        return super().to(device)

    def leads_at(self, winner: Tensor, scores: Tensor, alone: bool = False) -> Tensor:
        """(N, rows, columns): how far the `winner` (N,) is ahead of all others with a mask over a patch at each place.

        Unless it is `alone`, there is a second mask where it hurts most.
        """
        of_rows, of_columns = self.holding
        leads = least_ahead(winner, self.leads_by_set(winner, scores, alone)[0])
        return leads.unflatten(1, (self.side, self.side))[:, of_rows][:, :, of_columns]

    def left_by_one(self, scores: Tensor) -> Tensor:
        return scores[:, self.windows.copy_numbers().diagonal()]

    def of_bands(self, scores: Tensor) -> list[Tensor]:
        """For each family of bands the float64 sums (N, L(L+1)/2, K) that pairs of places leave of (N, bands, K)."""
        return []

    def first_round(self, bands: list[Tensor], singles: Tensor) -> Tensor:
        """(N, P, K): what each place leaves, from the sums `of_bands` and the scores (N, k², K) without one window."""
        return singles

    def dissenting(self, first: Tensor) -> Tensor:
        """(N, k²) bool: the windows at places that dissent in the `first_round` (N, P, K).

        They hint at where an image was tampered with. They are no certificate.
        """
        places = torch.stack([dissenting(classes) for classes in first.argmax(dim=2)])
        counts = places.new_zeros(len(places), self.side**2, dtype=torch.int64)
        return counts.index_add(1, self.window_at, places.long()) > 0

    def over(self, places: Tensor) -> Tensor:
        """(N,): of the P places the masks over a patch at `places` (N,), row by row by its upper left corner."""
        of_rows, of_columns = self.holding
        return of_rows[places // len(of_columns)] * self.side + of_columns[places % len(of_columns)]

    def beside(self, places: Tensor, bands: Tensor, windows: Tensor) -> Tensor:
        """(N, P, K): what is left without one of the P `places` (N,) in each image and without each second one.

        Args:
            bands: their scores (N, bands, K).
            windows: (N, k², K), the scores of the copies without the window at that place and each other window.
        """
        return windows

    def bands_ahead(self, winner: Tensor, bands: list[Tensor]) -> Tensor | float:
        """(N, k², k², K): how far the `winner` (N,) is ahead in bands at the worst places of two windows each."""
        return 0.0

    def bands_ahead_from(self, places: Tensor, winner: Tensor, bands: list[Tensor]) -> Tensor:
        """(P', k², K): the same of one image at some `places` (P',) and the worst place of a second window."""
        return torch.zeros(len(places), self.side**2, 1, device=places.device)

    def _sums(self, scores: Tensor) -> list[Tensor]:
        upper = torch.triu_indices(self.side**2, self.side**2, device=scores.device)
        return [scores[:, self.windows.copy_numbers()[*upper]]]


class LinkedMasking(WindowMasking):
    """The two-round prediction from the scores of all copies of `BandsAndWindows`, and its certificate.

    A place is a row r and a column c. Left out are the columns and rows that the patch touches there, and all windows'
    copies but those that hide the first window which holds the patch, w(r, c); a patch there touches none of these. For
    a pair of places the scores of the bands that are left are added up, and that of the copy which hides both windows,
    or the one window that they are. So the sums are

        columns[c, c'] + rows[r, r'] + windows[w(r, c), w(r', c')],

    and the worst of them is looked for window by window, not place by place.

    Attributes:
        touched: of columns, rows and windows, as of `DoubleMasking`; `kept` of columns and rows alone.
        holding, window_at: as of `WindowMasking`; places are row by row.

    Raises:
        UsageError: no window holds the patch, or two patches are asked about.
    """

    temperature = TEMPERATURE

    def __init__(self, ablation: BandsAndWindows, patch: Patch, patches: int = 1):
        super().__init__(ablation.windows, patch, patches)
        windows = self.touched
        places = [len(along) for along in self.holding]
        touched = ablation.touched_by(patch).unflatten(0, places)  # (Lr, Lc, A)
        columns, rows = touched[0, :, : ablation.width], touched[:, 0, ablation.width : ablation.bands.count]
        self._keep([columns, rows])
        self.bands, self.touched = ablation.bands.count, self.touched + windows
        of_rows, of_columns = self.holding
        self.window_at = (of_rows[:, None] * self.side + of_columns).flatten()

    def leads_at(self, winner: Tensor, scores: Tensor, alone: bool = False) -> Tensor:
        if alone:
            leads = ahead(winner, self.left_by_one(scores.double()))
            return least_ahead(winner, leads).unflatten(1, tuple(map(len, self.holding)))
        return torch.cat(
            [
                least_ahead(some, self._worst_second([ahead(some, paired(family)) for family in sums]))
                for some, sums in self._beside_sums(winner, scores)
            ]
        )

    def left_by_one(self, scores: Tensor) -> Tensor:
        of_bands, of_windows = scores.tensor_split([self.bands], dim=1)
        return self.first_round(self.of_bands(of_bands), super().left_by_one(of_windows))

    def set_numbers(self) -> list[Tensor]:
        places, columns = torch.arange(len(self.window_at), device=self.window_at.device), len(self.holding[1])
        return [places % columns, places // columns, self.window_at]

    def of_bands(self, scores: Tensor) -> list[Tensor]:
        return DoubleMasking._sums(self, scores.double())

    def first_round(self, bands: list[Tensor], singles: Tensor) -> Tensor:
        return self._at_places([*map(paired, bands), singles])

    def over(self, places: Tensor) -> Tensor:
        return places

    def beside(self, places: Tensor, bands: Tensor, windows: Tensor) -> Tensor:
        numbers = places % len(self.holding[1]), places // len(self.holding[1])
        families = zip(self.touched, numbers, bands.split(self.sizes, dim=1), strict=False)
        columns, rows = (
            (~(touched[chosen][:, None] | touched)).to(scores.dtype) @ scores for touched, chosen, scores in families
        )
        return (rows[:, :, None] + columns[:, None]).flatten(1, 2) + windows[:, self.window_at]

    def bands_ahead(self, winner: Tensor, bands: list[Tensor]) -> Tensor | float:
        columns, rows = (ahead(winner, paired(family)) for family in bands)
        rows, columns = (
            self._worst_of_windows(self._worst_of_windows(leads, along).transpose(1, 2), along)
            for leads, along in zip((rows, columns), self.holding, strict=True)
        )  # (N, k, k, K), of the second place before the first
        return (rows[:, :, None, :, None] + columns[:, None, :, None]).flatten(3, 4).flatten(1, 2)

    def bands_ahead_from(self, places: Tensor, winner: Tensor, bands: list[Tensor]) -> Tensor:
        row, column = places // len(self.holding[1]), places % len(self.holding[1])
        columns, rows = (
            self._worst_of_windows(ahead(winner, paired(family))[:, numbers], along)[0]  # (P', k, K)
            for family, numbers, along in zip(bands, (column, row), reversed(self.holding), strict=True)
        )
        return (rows[:, :, None] + columns[:, None]).flatten(1, 2)

    def _sums(self, scores: Tensor) -> list[Tensor]:
        of_bands, of_windows = scores.tensor_split([self.bands], dim=1)
        return [*DoubleMasking._sums(self, of_bands), *super()._sums(of_windows)]

    def _worst_leads(self, winner: Tensor, sums: list[Tensor]) -> Tensor:
        *bands, windows = sums
        return (self.bands_ahead(winner, bands) + ahead(winner, paired(windows))).amin(dim=(1, 2))

    def _two_rounds(self, sums: list[Tensor]) -> Tensor:
        *bands, windows = sums

        def worst(asked: Tensor, dissenting: int) -> Tensor:
            leads = [family[asked][..., dissenting, None] - family[asked] for family in sums]
            return self._worst_second(leads).flatten(1, 2)

        singles = windows.diagonal(dim1=1, dim2=2).transpose(1, 2)
        return in_two_rounds(self._at_places([*bands, singles]), worst)

    def _at_places(self, sums: list[Tensor]) -> Tensor:
        """(N, P, K): what each place leaves of columns and rows (N, L, L, K), and of copies without one window."""
        *bands, singles = sums
        columns, rows = (family.diagonal(dim1=1, dim2=2).transpose(1, 2) for family in bands)
        return (rows[:, :, None] + columns[:, None]).flatten(1, 2) + singles[:, self.window_at]

    def _worst_second(self, leads: list[Tensor]) -> Tensor:
        """(N, Lr, Lc, K): at each first place the least lead over all second ones.

        Args:
            leads: of columns (N, Lc, Lc, K), rows (N, Lr, Lr, K) and windows (N, k², k², K), for pairs.
        """
        columns, rows, windows = leads
        of_rows, of_columns = self.holding
        rows, columns = self._worst_of_windows(rows, of_rows), self._worst_of_windows(columns, of_columns)
        square = self.side, self.side
        hidden = windows.unflatten(2, square).unflatten(1, square)[:, of_rows][:, :, of_columns]  # (N, Lr, Lc, k, k, K)
        return (rows[:, :, None, :, None] + columns[:, None, :, None] + hidden).amin(dim=(3, 4))

    def _worst_of_windows(self, leads: Tensor, holding: Tensor) -> Tensor:
        """(N, F, k, K): of leads (N, F, L, K) the least over the second places in each row, or column, of windows."""
        return worst_of_groups(leads, holding, self.side)


def masking_of(ablation: Ablation, patch: Patch | Area, patches: int = 1) -> DoubleMasking:
    """The double masking of these copies.

    Raises:
        UsageError: see `DoubleMasking`, `WindowMasking`, `LinkedMasking` and `ShapesMasking`; or bands and windows
            together are to be masked against an area.
    """
    if isinstance(patch, Area):
        return _of_area(ablation, patch, patches)
    if isinstance(ablation, BandsAndWindows):
        return LinkedMasking(ablation, patch, patches)
    kind = WindowMasking if isinstance(ablation, WindowPairs) else DoubleMasking
    return kind(ablation, patch, patches)


def _of_area(ablation: Ablation, area: Area, patches: int) -> DoubleMasking:
    if isinstance(ablation, BandsAndWindows):
        right = "expected sizes such as 5 or 2x8; areas are for bands, or windows, alone"
        raise UsageError("size_to_certify", area, right)
    if isinstance(ablation, WindowPairs):
        of_area = shapes(area, ablation.height, ablation.width)
        for shape in of_area:
            ablation.require_fits("size_to_certify", shape)
        return WindowMasking(ablation, of_area[0], patches)  # whatever fits, the same windows are hidden
    kind = ShapesMasking if len(ablation.families()) > 1 else DoubleMasking
    return kind(ablation, area, patches)
