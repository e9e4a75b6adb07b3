"""Double masking of bands and of windows at once: every place leaves out bands, and copies that do not hide it.

Copies that hide two windows see nearly the whole picture, those that show one band see little that a patch could touch.
What one kind is unsure of the other often knows, so that their scores together can certify more than either. Columns
and rows are touched independently of each other, but which window hides a place follows from its row and its column.
"""

import torch
from torch import Tensor

from patchcert.ablations.ablation import Ablation
from patchcert.ablations.windows import BandsAndWindows
from patchcert.errors import UsageError
from patchcert.masking.double_masking import DoubleMasking, ahead, in_two_rounds, paired
from patchcert.patch import Patch


class LinkedMasking(DoubleMasking):
    """The two-round prediction from the scores of all copies of `BandsAndWindows`, and its certificate.

    A place is a row r and a column c. Left out are the columns and rows that the patch touches there, and all windows'
    copies but those that hide the first window which holds the patch, w(r, c); a patch there touches none of these. For
    a pair of places the scores of the bands that are left are added up, and that of the copy which hides both windows;
    where they are one, the mean of the copies that hide it. So the sums are

        columns[c, c'] + rows[r, r'] + windows[w(r, c), w(r', c')],

    and the worst of them is looked for window by window, not place by place.

    Attributes:
        touched: of columns, rows and windows, as of `DoubleMasking`; `kept` of columns and rows alone.
        holding: for each row r, and each column c, the number of the row, or column, of windows that hold the patch.

    Raises:
        UsageError: no window holds the patch, or two patches are asked about.
    """

    def __init__(self, ablation: BandsAndWindows, patch: Patch, patches: int = 1):
        if patches != 1:
            raise UsageError("patches", patches, "expected 1: bands and windows are masked together against one patch")
        self.side = ablation.windows.side
        self.holding = list(ablation.windows.holding(patch))
        places = [len(along) for along in self.holding]
        touched = ablation.touched_by(patch).unflatten(0, places)  # (Lr, Lc, A)
        columns, rows = touched[0, :, : ablation.width], touched[:, 0, ablation.width : ablation.bands.count]
        self._keep([columns, rows])
        self.bands, self.windows = ablation.bands.count, ablation.windows
        pairs = torch.triu_indices(self.side**2, self.side**2, offset=1, device=rows.device)
        self.touched.append((torch.arange(self.side**2, device=rows.device)[:, None, None] != pairs).all(dim=1))

    def to(self, device: torch.device | str) -> "LinkedMasking":
        self.holding = [along.to(device) for along in self.holding]
        self.windows.to(device)
        return super().to(device)

    def _sums(self, scores: Tensor) -> list[Tensor]:
        of_bands, of_windows = scores.tensor_split([self.bands], dim=1)
        hidden = self.windows.without_both(of_windows)
        upper = torch.triu_indices(self.side**2, self.side**2, device=scores.device)
        return [*super()._sums(of_bands), hidden[:, *upper]]

    def leads_at(self, winner: Tensor, scores: Tensor) -> Tensor:
        """(N, rows, columns, K): how far the `winner` (N,) is ahead with a patch at each place and a second mask.

        The second one lies where it hurts most.
        """
        return torch.cat(
            [
                self._worst_second([ahead(some, paired(family)) for family in sums])
                for some, sums in self._beside_sums(winner, scores)
            ]
        )

    def _worst_leads(self, winner: Tensor, sums: list[Tensor]) -> Tensor:
        columns, rows, windows = (ahead(winner, paired(family)) for family in sums)
        rows, columns = (
            self._worst_of_windows(self._worst_of_windows(leads, along).transpose(1, 2), along)
            for leads, along in zip((rows, columns), self.holding, strict=True)
        )  # (N, k, k, K), of the second place before the first
        hidden = windows.unflatten(2, (self.side, self.side)).unflatten(1, (self.side, self.side))
        return (rows[:, :, None, :, None] + columns[:, None, :, None] + hidden).amin(dim=(1, 2, 3, 4))

    def _two_rounds(self, sums: list[Tensor]) -> Tensor:
        columns, rows, windows = (family.diagonal(dim1=1, dim2=2).transpose(1, 2) for family in sums)
        of_rows, of_columns = self.holding
        hidden = windows.unflatten(1, (self.side, self.side))[:, of_rows][:, :, of_columns]  # (N, Lr, Lc, K)

        def worst(asked: Tensor, dissenting: int) -> Tensor:
            leads = [family[asked][..., dissenting, None] - family[asked] for family in sums]
            return self._worst_second(leads).flatten(1, 2)

        return in_two_rounds((rows[:, :, None] + columns[:, None] + hidden).flatten(1, 2), worst)

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
        nowhere = leads.new_full((*leads.shape[:2], self.side, leads.shape[3]), torch.inf)
        return nowhere.scatter_reduce_(2, holding[:, None].expand_as(leads), leads, "amin")


def masking_of(ablation: Ablation, patch: Patch, patches: int = 1) -> DoubleMasking:
    """The double masking of these copies.

    Raises:
        UsageError: see `DoubleMasking` and `LinkedMasking`.
    """
    kind = LinkedMasking if isinstance(ablation, BandsAndWindows) else DoubleMasking
    return kind(ablation, patch, patches)
