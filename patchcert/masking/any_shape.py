"""Double masking of bands of columns and rows against rectangles of which only the area is known.

Which shape a patch has is the adversary's choice, so the places of all shapes are one set: a place is a shape, and the
columns and the rows that it touches somewhere. Columns and rows are chosen independently of each other, but only those
of one shape: a wide rectangle is not a tall one. The two rounds and their proof are those of `double_masking`, for the
proof asks for nothing but that some place leaves out all that the patch touches. Shapes that fit into another one need
no places of their own: what they touch, a place of the larger one leaves out.
"""

from typing import Self

import torch
from torch import Tensor

from patchcert.ablations.ablation import Ablation
from patchcert.errors import UsageError
from patchcert.masking.double_masking import (
    DoubleMasking,
    ahead,
    in_two_rounds,
    paired,
    require_few_pairs,
    touched_sets,
    worst_of_groups,
)
from patchcert.patch_sizes import Area, shapes


class ShapesMasking(DoubleMasking):
    """The two-round prediction and its certificate against every rectangle of an area, for columns and rows together.

    Attributes:
        touched, kept: of columns and of rows, as of `DoubleMasking`, shape by shape.
        shape_of: for each family (L,) int64, the shape that a set belongs to, of `shape_count`.
        sets_at: for each family (P,) int64, the number of its set at each of the distinct places.

    Raises:
        UsageError: two patches are asked about, or there are too many pairs of places.
    """

    def __init__(self, ablation: Ablation, area: Area, patches: int = 1):
        if patches != 1:
            raise UsageError("patches", patches, f"expected 1 for {area}; against two of them, make alarms the goal")
        of_shapes = shapes(area, ablation.height, ablation.width)
        self.shape_count = len(of_shapes)
        touched = [[touched_sets(family, shape) for shape in of_shapes] for family in ablation.families()]
        together = [torch.cat(sets) for sets in touched]
        for sets in together:
            require_few_pairs(sets, area)
        self._keep(together)
        every = torch.arange(self.shape_count, device=ablation.cells.device)
        self.shape_of = [
            every.repeat_interleave(torch.tensor([len(one) for one in sets], device=every.device)) for sets in touched
        ]
        self.sets_at = self._places()

    def _places(self) -> list[Tensor]:
        """For each family the numbers (P,) of its sets at distinct places: all pairs of sets of one shape."""
        columns, rows = (self.shape_of[0][:, None] == self.shape_of[1]).nonzero(as_tuple=True)
        left_out = torch.cat([self.touched[0][columns], self.touched[1][rows]], dim=1)
        distinct, number = left_out.unique(dim=0, return_inverse=True)
        first = number.new_full((len(distinct),), len(number))
        first.scatter_reduce_(0, number, torch.arange(len(number), device=number.device), "amin")
        return [columns[first], rows[first]]

    def to(self, device: torch.device | str) -> Self:
        self.shape_of, self.sets_at = ([one.to(device) for one in of_both] for of_both in (self.shape_of, self.sets_at))
        return super().to(device)

    def set_numbers(self) -> list[Tensor]:
        return self.sets_at

    def left_by_one(self, scores: Tensor) -> Tensor:
        families = zip(self.touched, self.sets_at, scores.split(self.sizes, dim=1), strict=True)
        return sum(
            torch.einsum("la,nak->nlk", (~sets).to(part.dtype), part)[:, numbers] for sets, numbers, part in families
        )

    def _worst_leads(self, winner: Tensor, sums: list[Tensor]) -> Tensor:
        columns, rows = (
            self._worst_of_shapes(self._worst_of_shapes(ahead(winner, paired(family)), of).transpose(1, 2), of)
            for family, of in zip(sums, self.shape_of, strict=True)
        )  # (N, shapes, shapes, K)
        return (columns + rows).amin(dim=(1, 2))

    def _two_rounds(self, sums: list[Tensor]) -> Tensor:
        def worst(asked: Tensor, dissenting: int) -> Tensor:
            leads = (family[asked][..., dissenting, None] - family[asked] for family in sums)
            second = (
                self._worst_of_shapes(lead, of)[:, numbers]
                for lead, of, numbers in zip(leads, self.shape_of, self.sets_at, strict=True)
            )  # (n, P, shapes, K)
            return sum(second).amin(dim=2)

        first = (family.diagonal(dim1=1, dim2=2).transpose(1, 2) for family in sums)
        return in_two_rounds(sum(f[:, numbers] for f, numbers in zip(first, self.sets_at, strict=True)), worst)

    def _worst_of_shapes(self, leads: Tensor, shape_of: Tensor) -> Tensor:
        """(N, F, shapes, K): of leads (N, F, L, K) the least over the second sets of each shape."""
        return worst_of_groups(leads, shape_of, self.shape_count)
