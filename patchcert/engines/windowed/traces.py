"""A network as the trace of its operations that torch.fx makes, or why it would be the trace of something else."""

import copy
from typing import Any

import torch
from torch import fx, nn

from patchcert import arithmetic
from patchcert.as_written import unwritten
from patchcert.errors import UsageError
from patchcert.networks import put_into_eval


class BeyondWindowsError(UsageError):
    """The network uses something that cannot be evaluated in windows: `what`, in words."""

    def __init__(self, what: str):
        right = f"the network uses {what}, which it cannot do; dense always works"
        super().__init__("engine", "windowed", right)
        self.what = what


def traced(network: nn.Module, dtype: torch.dtype | None) -> fx.GraphModule:
    """The operations of which the `forward` of a copy of `network` consists, its weights as they are or of a `dtype`.

    Raises:
        BeyondWindowsError: they cannot be found, or are not all that it computes.
    """
    besides = unwritten(network)
    if besides:
        raise BeyondWindowsError(besides)
    try:
        copied = put_into_eval(copy.deepcopy(network)).to(dtype)
        if any(part.training for part in copied.modules()):
            raise BeyondWindowsError("a part that stays in training mode")
        tracer = Tracer()
        graph = tracer.trace(copied)
        return fx.GraphModule(tracer.root, graph)
    except BeyondWindowsError:
        raise
    except Exception as error:  # other people's networks fail in every way there is
        raise BeyondWindowsError(f"Python that torch.fx cannot trace ({error})") from error


class Tracer(fx.Tracer):
    """Follows a network. What it finds will run with the settings and weights that there were before `forward` ran.

    To load a pickled graph, torch.fx makes another tracer of this class, without arguments.
    """

    def trace(self, root: nn.Module, *arguments: Any, **more: Any) -> fx.Graph:
        self.network, self.settings, self.weights = root, arithmetic.settings(), _weights(root)
        return super().trace(root, *arguments, **more)

    def create_node(self, *arguments: Any, **more: Any) -> fx.Node:
        if arithmetic.settings() != self.settings:
            raise BeyondWindowsError("torch.autocast, or other settings of arithmetic, inside of its own code")
        if _weights(self.network) != self.weights:
            raise BeyondWindowsError("other weights inside of its own code")
        return super().create_node(*arguments, **more)


def _weights(network: nn.Module) -> list[int]:
    """Which tensors its weights are, whatever is in them."""
    return [id(tensor) for tensor in (*network.parameters(), *network.buffers())]
