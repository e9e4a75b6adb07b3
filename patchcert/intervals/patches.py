"""Margin bounds at every place a patch can be, without ever building one full image per place.

Chiang, Ni, Abdelkader, Zhu, Studer and Goldstein, "Certified Defenses for Adversarial Patches", ICLR 2020,
arXiv 2003.06693, section 4, push one box per place through the network. Outside the patch such a box is the
point x. So the clean activations are computed once, and for each place only how far the box is from them, as the
shift of its centre and its radius, inside the window that the patch has reached (`windows`). Convolutions let the
window grow; a linear layer after a flatten layer multiplies only the window's coordinates, which for a multilayer
perceptron are the patch. From there on boxes go through the rules of `bounds`.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcert.intervals.bounds import Box, Room, grown, margins, through, widened
from patchcert.intervals.places import Places, Scale, Threat
from patchcert.intervals.rounding import Rounding
from patchcert.intervals.windows import Axis, Kernel, RowsOfChannels, Windows

CACHE = 4 * 2**20
"""Bytes of one activation of a chunk on the CPU, which then stays in cache from layer to layer."""

LIVE = 8
"""Tensors of an activation's size that live at the same time while a layer is computed."""


@dataclass(frozen=True)
class _Rooms:
    """The room that boxes get for rounding, by index of the layer; none, where there is nothing.

    Attributes:
        behind: of linear layers and convolutions.
        rows: what is beside, of convolutions that are computed inside windows.
        errors: how far executions on clean images (N, …) are from what goes into a layer.
    """

    behind: dict[int, Room] = field(default_factory=dict)
    rows: dict[int, RowsOfChannels] = field(default_factory=dict)
    errors: dict[int, Tensor] = field(default_factory=dict)


class PatchBounds:
    """Lower bounds of a batch's margins at any places of a patch.

    What all places share is computed here, once; `margins` is then called for one lattice of places after another.

    Args:
        network: a Sequential that ends in a linear layer. Pairs of a convolution and a ReLU at its beginning are
            computed inside windows.
        images: (N, C, H, W) in [0, 1].
        labels: (N,) int64.
        neighbor: g_i: after the i-th convolution or linear layer, each g_i² boxes that follow each other in the
            lattice become one, see `pooled_corners`.
        rounded: whether the bounds hold for whatever rounding makes of the network, see `rounding`; no gradients.
        amp: whether convolutions and the linear layer behind them may take products in bfloat16: in training only.
    """

    def __init__(
        self,
        network: nn.Sequential,
        images: Tensor,
        labels: Tensor,
        threat: Threat,
        scale: Scale,
        neighbor: Sequence[int],
        rounded: bool,
        amp: bool,
    ):
        self.network, self.labels, self.patch, self.amp = network, labels, threat.patch, amp
        self.neighbor = dict(zip(weighted_layers(network), neighbor, strict=False))
        self.inputs, self.image_size = scale.inputs(images), images.shape[2:]
        pixels = threat.pixels(images)
        self.shift, self.radius = scale.lengths(pixels.centre - images), scale.lengths(pixels.radius)
        self.windowed = leading_convolutions(network)
        self.linear = _flattened_into(network, 2 * self.windowed)
        self.clean = []  # before the ReLU of each of these convolutions
        self.rooms = _Rooms()
        self._look_at_clean_images(Rounding(network, scale, self.inputs) if rounded else None)

    def _look_at_clean_images(self, rounding: Rounding | None) -> None:
        """What is needed of the clean activations: at the windows; for rounding, everywhere."""
        needed = 2 * self.windowed + (0 if self.linear is None else 2)
        activation, last = self.inputs, len(self.network) - 1
        for index, layer in enumerate(self.network[: last if rounding else needed]):
            with self._products():
                output = F.relu(activation) if isinstance(layer, nn.ReLU) else layer(activation)  # never in place
            output = output.to(self.inputs.dtype)
            if index < 2 * self.windowed and index % 2 == 0:
                self.clean.append(RowsOfChannels(output, outside=-torch.inf))
                output = self.clean[-1].maps()
            elif self.linear is not None and index == 2 * self.windowed + 1:
                self.clean_linear = output  # (N, D)
            if rounding:
                self.rooms.errors[index] = rounding.error
                room = rounding.behind(layer, activation, output)
                if room:
                    self.rooms.behind[index] = room
                    if index < 2 * self.windowed:
                        self.rooms.rows[index] = RowsOfChannels(room.beside, outside=0.0)
            activation = output
        if rounding:
            self.rooms.errors[last] = rounding.error
            self.rooms.behind[last] = rounding.of_margins(self.network[-1], activation, self.labels)

    def _products(self) -> torch.autocast:
        """Inside, products of convolutions and linear layers are of bfloat16, if they may be."""
        return half_products(self.inputs.device, self.amp)

    def without_room(self) -> "PatchBounds":
        """The same bounds without room for rounding."""
        plain = copy.copy(self)
        plain.rooms = _Rooms()
        plain.__dict__.pop("kernels", None)
        return plain

    @cached_property
    def kernels(self) -> list[Kernel]:
        """Of the convolutions that are computed inside windows."""
        layers, dtype = self.network[: 2 * self.windowed : 2], torch.bfloat16 if self.amp else self.inputs.dtype
        return [Kernel.of(layer, self.rooms.behind.get(2 * i), dtype) for i, layer in enumerate(layers)]

    @cached_property
    def weight_rows(self) -> Tensor:
        """(C·H·W, D): the weights of the first linear layer, so that those of an input are one row."""
        return self.linear.weight.t().contiguous()

    def margins(self, places: Places) -> Tensor:
        """(P, B, K): lower bounds of logit_y − logit_c with the patch at each of the places.

        Where boxes are merged, P counts what is left of them.
        """
        return self._margins_behind(*self._first_layers(places), places)

    def margins_behind(self, box: Box, places: Places) -> Tensor:
        """(P, B, K): `margins` that follow from boxes (P·B, D) behind the linear layer that the windows lead to."""
        return self._margins_behind(box, 2 * self.windowed + 2, places)

    def _margins_behind(self, box: Box, done: int, places: Places) -> Tensor:
        columns = len(places.images)
        for index, layer in enumerate(self.network[done:-1], start=done):
            box = _rectified(box) if isinstance(layer, nn.ReLU) else through(layer, box, self._room(index, places))
            box = self._merged(index, box, columns)
        ends = (end.unflatten(0, (-1, columns)) for end in (box.lower, box.upper))
        room = self._room(len(self.network) - 1, places)
        return margins(self.network[-1], Box(*ends), self.labels[places.images], room)

    def _room(self, index: int, places: Places) -> Room | None:
        """The room for rounding of boxes at these places behind layer `index`, where there is one."""
        room = self.rooms.behind.get(index)
        return room and room.of(places.images)

    def places_at_once(self, places: Places, max_memory: int) -> int:
        """How many of the places to compute together, so that they need no more than `max_memory` bytes."""
        box, weights = self._bytes_per_place(places)
        columns = len(places.images)
        count = max_memory // (LIVE * columns * max(box) + weights)
        if self.inputs.device.type == "cpu":
            count = min(count, CACHE // (columns * max(box)))
        return max(count, 1)

    def bytes_per_image(self, places: Places, with_gradients: bool) -> int:
        """What the clean activations of an image take, together with one box, or with the boxes of all classes.

        Gradients need all activations to be kept, bounds only the largest.
        """
        box, _ = self._bytes_per_place(places)
        if not with_gradients:
            return 2 * self.clean_bytes + LIVE * max(box)
        return LIVE * (self.clean_bytes + (self.network[-1].out_features - 1) * places.group * sum(box))

    @property
    def clean_bytes(self) -> int:
        """Of the clean activations of one image."""
        return self.inputs.element_size() * sum(self._activation_sizes)

    def _bytes_per_place(self, places: Places) -> tuple[list[int], int]:
        """The bytes of the activations of one box, and of the weights that are gathered for one place."""
        sizes, done, weights = self._window_sizes(places), 2 * self.windowed, 0
        if self.linear is not None and not self.windowed:
            weights, done = 2 * sizes[-1] * self.linear.out_features, done + 2
        element = self.inputs.element_size()
        return [element * size for size in sizes + self._activation_sizes[done:]], element * weights

    def _window_sizes(self, places: Places) -> list[int]:
        """The floats in a window on the input and after each convolution."""
        rows, columns = self._axes(places)
        sizes = [self.inputs.shape[1] * rows.size * columns.size]
        for layer in self.network[: 2 * self.windowed : 2]:
            rows, columns = rows.through(layer, 0)[0], columns.through(layer, 1)[0]
            sizes.append(layer.out_channels * rows.size * columns.size)
        return sizes

    @cached_property
    def _activation_sizes(self) -> list[int]:
        """The floats in one image's input and after each layer but the last."""
        sizes, activation = [self.inputs[0].numel()], self.inputs[:1].clone()  # a ReLU may write into it
        with torch.no_grad():
            for layer in self.network[:-1]:
                activation = layer(activation)
                sizes.append(activation.numel())
        return sizes

    def _first_layers(self, places: Places) -> tuple[Box, int]:
        """The boxes (P·B, …) after the layers that are served by windows, and how many layers these are."""
        columns = len(places.images)
        if not self.windowed and self.linear is not None:
            return self._merged(1, self._linear_on_patches(places), columns), 2
        windows, done = self.patch_windows(places), 0
        for kernel, before_relu in zip(self.kernels, self.clean, strict=True):
            windows = windows.ready_for(kernel).multiplied()
            pixels = before_relu.index(windows.rows, windows.columns, places.images)
            beside = self.rooms.rows[done].at(pixels) if self.rooms.rows else None
            windows = windows.between(*windows.ends(before_relu.at(pixels), beside))
            windows = windows.merged(self.neighbor.get(done, 1) ** 2)
            done += 2
            if windows.cover:
                break
        if self.linear is not None and done == 2 * self.windowed:
            return self._merged(done + 1, self._linear_on_windows(windows, places), columns), done + 2
        clean = self.clean[done // 2 - 1].maps().relu() if done else self.inputs
        return windows.around(clean, places.images, self.rooms.errors.get(done)), done

    def _merged(self, index: int, box: Box, columns: int) -> Box:
        """Boxes (P·B, …) after layer `index`: those of neighboring places in one, as far as `neighbor` says so."""
        if self.neighbor.get(index, 1) == 1:
            return box
        groups = (-1, self.neighbor[index] ** 2, columns)
        lower, upper = box.lower.unflatten(0, groups), box.upper.unflatten(0, groups)
        return Box(lower.amin(dim=1).flatten(0, 1), upper.amax(dim=1).flatten(0, 1))

    def stride(self, axis: int) -> int:
        """Of all convolutions that are computed inside windows together, along rows (0) or columns (1)."""
        return math.prod(layer.stride[axis] for layer in self.network[: 2 * self.windowed : 2])

    def _axes(self, places: Places, everywhere: bool = False) -> tuple[Axis, Axis]:
        """Windows on the input around the patches, which meet all strides in the same phase.

        Args:
            everywhere: whether they are to be as large as windows of the same phase anywhere on the map.
        """
        found = []
        for axis, (length, extent) in enumerate(zip(astuple(self.patch), self.image_size, strict=True)):
            scale = self.stride(axis)
            windows = Axis.around(places.corners[..., axis], length, scale, extent)
            found.append(replace(windows, least=0, most=(extent - length) // scale) if everywhere else windows)
        return tuple(found)

    def last_axis(self, places: Places, axis: int) -> Axis:
        """The rows (0) or columns (1) of the windows behind the last of these convolutions."""
        found = self._axes(places)[axis]
        for layer in self.network[: 2 * self.windowed : 2]:
            found, _, _ = found.through(layer, axis)
        return found

    def patch_windows(self, places: Places, everywhere: bool = False) -> Windows:
        """The input's differences: those of the pixels under each patch, in windows as `_axes` has them."""
        axes, under_patch = self._axes(places, everywhere), []
        for axis, length in enumerate(astuple(self.patch)):
            from_corner = axes[axis].positions() - places.corners[..., axis, None]
            under_patch.append((from_corner >= 0) & (from_corner < length))  # (P, B, a)
        mask = under_patch[0][..., :, None] & under_patch[1][..., None, :]  # (P, B, a, b)
        mask = mask.expand(-1, len(places.images), -1, -1).flatten(0, 1)[:, None]
        shift, radius = (
            RowsOfChannels(maps, outside=0.0).windows(*axes, places.images) * mask for maps in (self.shift, self.radius)
        )
        return Windows(shift, radius, *axes)

    def _linear_on_windows(self, windows: Windows, places: Places) -> Box:
        """(P·B, D) boxes after flatten and linear."""
        room = self._room(2 * self.windowed + 1, places)
        strip = windows.rows.strip, windows.columns.strip
        shift, radius = windows.on_maps(len(places.images), *strip)
        weights, sizes = (x[:, *strip].contiguous() for x in self.weights_by_pixel)
        shift = times_maps(shift.to(weights.dtype), weights)
        radius = times_maps(grown(radius.to(weights.dtype), room), sizes)
        centre = shift.unflatten(0, (-1, len(places.images))) + self.clean_linear[places.images]
        return Box.around_temporary(centre.flatten(0, 1), widened(radius, room))

    @cached_property
    def weights_by_pixel(self) -> tuple[Tensor, Tensor]:
        """(D, H, W, C) both: the weights of the linear layer behind the windows, and their sizes."""
        weights = self.linear.weight.view(-1, *self.clean[-1].maps().shape[1:]).permute(0, 2, 3, 1)
        weights = weights.to(torch.bfloat16 if self.amp else weights.dtype).contiguous()
        return weights, weights.abs()

    def _linear_on_patches(self, places: Places) -> Box:
        """(P·B, D) boxes after flatten and linear where they are the first layers."""
        row, column = (
            places.corners[..., axis, None] + torch.arange(length, device=places.corners.device)
            for axis, length in enumerate(astuple(self.patch))
        )
        channel = torch.arange(self.shift.shape[1], device=row.device)[:, None, None]
        height, width = self.image_size
        coordinates = (channel * height + row[..., None, :, None]) * width + column[..., None, None, :]
        coordinates = coordinates.flatten(2)  # (P, B, C·w·l)
        maps = self.shift.flatten(1), self.radius.flatten(1)
        if places.shared:
            columns = (x[places.images].t().contiguous() for x in maps)  # (C·H·W, B)
            shift, radius = (x[coordinates[:, 0]].transpose(1, 2) for x in columns)  # (P, B, C·w·l)
            return self._times_weights(shift, radius, coordinates[:, 0], places)
        shift, radius = (x[places.images[:, None], coordinates].flatten(0, 1) for x in maps)
        coordinates, room = coordinates.flatten(0, 1), self._room(2 * self.windowed + 1, places)
        shift = F.embedding_bag(coordinates, self.weight_rows, per_sample_weights=shift, mode="sum")
        weights, radius = self.weight_rows.abs(), grown(radius, room)
        radius = F.embedding_bag(coordinates, weights, per_sample_weights=radius, mode="sum")
        centre = shift.unflatten(0, (-1, len(places.images))) + self.clean_linear[places.images]
        return Box.around(centre.flatten(0, 1), widened(radius, room))

    def _times_weights(self, shift: Tensor, radius: Tensor, coordinates: Tensor, places: Places) -> Box:
        """clean + W·shift ± |W|·radius, a batched product over places.

        Args:
            shift, radius: (P, B, q).
            coordinates: (P, q), the inputs of the linear layer that they are differences of.
        """
        weights = F.embedding(coordinates, self.weight_rows)  # (P, q, D)
        clean = self.clean_linear[places.images].expand(len(coordinates), -1, -1)
        centre = torch.baddbmm(clean, shift, weights)
        sizes = weights.abs() if torch.is_grad_enabled() else weights.abs_()  # gathered, so nobody else's
        room = self._room(2 * self.windowed + 1, places)
        radius = widened(torch.bmm(grown(radius, room), sizes).flatten(0, 1), room)
        return Box.around_temporary(centre.flatten(0, 1), radius)


def half_products(device: torch.device, amp: bool) -> torch.autocast:
    """Inside, products are of bfloat16, if `amp`.

    Without a cache: PyTorch keeps converted weights until the outermost autocast ends, and `exact_float32`, which is
    one, lasts as long as a training. Steps would go on with the weights of the first one.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=amp, cache_enabled=False)


def times_maps(maps: Tensor, weights: Tensor) -> Tensor:
    """(B, D), of maps (B, H, W, C) and weights (D, H, W, C): a linear layer.

    In float32 it is a convolution whose kernel is as large as the map, if the CPU has AVX-512: this product is twice as
    fast there on AMD processors. Its gradients are slower, and without AVX-512 it is ten times as slow.
    """
    has_avx512 = maps.device.type == "cpu" and "AVX512" in torch.backends.cpu.get_cpu_capability()
    if not has_avx512 or maps.dtype == torch.bfloat16 or torch.is_grad_enabled():
        return F.linear(maps.flatten(1), weights.flatten(1))
    return F.conv2d(maps.permute(0, 3, 1, 2), weights.permute(0, 3, 1, 2)).flatten(1)


def _rectified(box: Box) -> Box:
    """The ReLU of a box that nothing else refers to, in its own memory where no gradients need it."""
    in_place = not torch.is_grad_enabled()
    return Box(F.relu(box.lower, in_place), F.relu(box.upper, in_place))


def leading_convolutions(network: nn.Sequential) -> int:
    """How many pairs of a convolution, padded with zeros by a number, and a ReLU the network begins with."""
    count = 0
    for layer, relu in zip(network[::2], network[1::2], strict=False):
        plain = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros"
        if not plain or isinstance(layer.padding, str) or not isinstance(relu, nn.ReLU):
            break
        count += 1
    return count


def _flattened_into(network: nn.Sequential, index: int) -> nn.Linear | None:
    """The linear layer that follows a flatten layer at `index`, unless it is the network's last."""
    layers = network[index : index + 2]
    kinds = [type(layer) for layer in layers]
    return layers[1] if kinds == [nn.Flatten, nn.Linear] and layers[1] is not network[-1] else None


def weighted_layers(network: nn.Sequential) -> list[int]:
    """The indices of the convolutions and linear layers before the last layer."""
    return [i for i, layer in enumerate(network[:-1]) if isinstance(layer, (nn.Conv2d, nn.Linear))]
