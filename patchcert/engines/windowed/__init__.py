"""The base classifier on ablated images, computed only where they differ from the empty image.

An ablated image is zero (the empty image) outside its windows, the rectangles that its mask shows. Every
activation therefore equals the empty image's outside the windows' growing reach, and only the part inside has
to be computed. `WindowedNetwork` traces a convolutional network once (torch.fx), evaluates the empty image
once, and plans for each ablation which part of which layer it computes.

A convolution is linear: its output is that of the window alone, with zeros around it, plus what the empty
activation around the window contributes. The latter is the same for every image and is added as a constant
(the offset), so no multiplication is spent on a pixel outside the window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from patchcert.ablations.ablation import Ablation
from patchcert.engines.windowed.geometry import Windows, windows_of
from patchcert.engines.windowed.layers import Planned
from patchcert.engines.windowed.traces import BeyondWindowsError, traced
from patchcert.engines.windowed.tracing import Step, Translator, Value

KEPT_BYTES = 1 << 28
"""Plans are kept for the next batch while their constants fit into this; others are made anew each time."""


@dataclass
class Plan:
    """What is computed for one ablation: the steps' functions, the size of what they hold, and their cost per image."""

    runs: dict[int, Callable[..., Any]]
    bytes: int
    multiply_adds: int


class WindowedNetwork:
    """A base classifier that computes on each ablated image only what differs from the empty image.

    Args:
        network: a convolutional network (N, channels, H, W) → (N, K); it is copied.
        ablation: which pixels the ablated images show.
        channels: the network's input channels, 2C.
        dtype: of weights and activations; by default that of the network's first weight.

    Raises:
        BeyondWindowsError: the network does something that cannot be evaluated in windows.
    """

    least = 1

    @torch.inference_mode()
    def __init__(self, network: nn.Module, ablation: Ablation, channels: int, dtype: torch.dtype | None = None):
        self.ablation = ablation
        first = windows_of(self._shown(0))[0]
        self.turned = first.bottom - first.top > first.right - first.left  # whole rows lie together in memory
        parameter = next(network.parameters(), torch.zeros((), device=ablation.cells.device))
        self.dtype = dtype or parameter.dtype
        empty = parameter.new_zeros(1, channels, ablation.height, ablation.width, dtype=self.dtype)
        self.steps = self._translated(network, dtype, self._laid_out(ablation.as_seen(empty)))
        self._note_readers()
        self.plans: dict[int, Plan] = {}
        self.kept_bytes = 0

    @torch.inference_mode()
    def logits(self, images: Tensor, indices: Tensor) -> Tensor:
        """(N, A', K): the network's outputs for images (N, 2C, H, W) under the ablations `indices` (A',)."""
        images = self._laid_out(self.ablation.as_seen(images.to(self.dtype)))
        return torch.stack([self._run(self._plan(index), images) for index in indices.tolist()], dim=1)

    def multiply_adds(self, indices: Tensor) -> int:
        """Of all convolutions, and of the linear layers on maps, for one image under the ablations `indices`."""
        return sum(self._plan(index).multiply_adds for index in indices.tolist())

    def _laid_out(self, images: Tensor) -> Tensor:
        """Images (N, 2C, H, W), as seen, in the rows, columns and memory order in which the steps work."""
        turned = images.transpose(2, 3) if self.turned else images
        return turned.contiguous(memory_format=torch.channels_last)

    def _shown(self, index: int) -> Tensor:
        """(H, W) bool: the ablation's mask, as seen."""
        return self.ablation.as_seen(self.ablation.masks(torch.tensor([index], device=self.ablation.cells.device))[0])

    def _translated(self, network: nn.Module, dtype: torch.dtype | None, empty: Tensor) -> dict[int, Step]:
        """The steps that the network's output depends on, in order."""
        translator = Translator(traced(network, dtype), self.turned)
        try:
            output = translator.run(Value(0, empty, True))
        except BeyondWindowsError:
            raise
        except Exception as error:  # arguments that no rule knows
            raise BeyondWindowsError(f"operations in a way that it does not know ({error})") from error
        if not isinstance(output, Value) or output.is_map:
            raise BeyondWindowsError("something else than logits as its output")
        needed = {output.step}
        for number in range(output.step, 0, -1):
            needed.update(translator.steps[number - 1].inputs if number in needed else ())
        return {number: translator.steps[number - 1] for number in sorted(needed - {0})}

    def _note_readers(self) -> None:
        """Tell the steps which values may be overwritten and which are not needed after them."""
        readers: dict[int, list[int]] = {}
        for number, step in self.steps.items():
            for i in step.inputs:
                readers.setdefault(i, []).append(number)
        for number, step in self.steps.items():
            step.layer.overwrites = step.inputs[:1] != (0,) and all(readers[i] == [number] for i in step.inputs[:1])
            step.last_reads = {i for i in step.inputs if readers[i][-1] == number}

    def _plan(self, index: int) -> Plan:
        """The plan for the ablation `index`, kept if there is room."""
        if index in self.plans:
            return self.plans[index]
        shown = self._shown(index).T if self.turned else self._shown(index)
        plan = self._planned(windows_of(shown))
        if self.kept_bytes + plan.bytes <= KEPT_BYTES:
            self.plans[index] = plan
            self.kept_bytes += plan.bytes
        return plan

    def _planned(self, shown: Windows) -> Plan:
        layers: dict[int, Planned] = {0: Planned(shown, lambda count, images: [w.of(images) for w in shown])}
        for number, step in self.steps.items():
            layers[number] = step.layer.planned(*(layers[i].windows for i in step.inputs))
        constants = [constant for layer in layers.values() for constant in layer.constants]
        return Plan(
            {number: layer.run for number, layer in layers.items()},
            sum(constant.nbytes for constant in constants),
            sum(layer.multiply_adds for layer in layers.values()),
        )

    def _run(self, plan: Plan, images: Tensor) -> Tensor:
        """(N, K): the network's outputs for images as `_laid_out` gives them."""
        values: dict[int, Any] = {0: plan.runs[0](len(images), images)}
        for number, step in self.steps.items():
            values[number] = plan.runs[number](len(images), *(values[i] for i in step.inputs))
            for i in step.last_reads:
                del values[i]
        return values[number]
