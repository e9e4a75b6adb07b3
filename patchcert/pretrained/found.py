"""A network that somebody trained, where it was found; and its weights, of which none may be made up."""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from patchcert import checkpoint, weight_names
from patchcert.errors import UsageError
from patchcert.pretrained.preparation import Transform

EXTRAS = {"timm": "timm", "huggingface_hub": "timm", "transformers": "transformers"}
"""The extra of pyproject.toml that each optional library comes with."""


@dataclass
class Found:
    """What a source gives.

    Attributes:
        network: filled.
        transform: how its images are made; None if nobody says.
        about: what it is and what is done to images, in words; JSON's types.
        labels: the names of its classes by their numbers; empty if nobody says.
    """

    network: nn.Module
    transform: Transform | None
    about: dict[str, object] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


def library(name: str, model: str) -> ModuleType:
    """The optional library `name`, one of `EXTRAS`; UsageError about `--model` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        right = f"needs {name}: pip install .[{EXTRAS[name]}] in a checkout, or pip install {name}"
        raise UsageError("model", model, right) from error


@dataclass(frozen=True)
class Weights:
    """The tensors of a file.

    Attributes:
        path: the file.
        entry: what they lie under; None if the file consists of them.
        tensors: by the names in the file.
    """

    path: Path
    entry: str | None
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> "Weights":
        """UsageError about `--weights` if there are none in the file."""
        content = checkpoint.read("weights", path)
        entry = weight_names.entry(content)
        return cls(path, entry, checkpoint.tensors_of("weights", path, content, entry))

    @property
    def about(self) -> dict[str, object]:
        """Which they are, in JSON's types."""
        return {"weights": self.path.name, **({"entry": self.entry} if self.entry else {})}

    def classes(self, network: nn.Module, head: str) -> int | None:
        """How many classes they tell apart in the layer called `head` of such a network; None if they have none."""
        rows = weight_names.resolved(self.tensors, network.state_dict()).get(f"{head}.weight")
        return None if rows is None or not rows.dim() else len(rows)

    def fill(self, network: nn.Module) -> None:
        """Fill the network with them; UsageError unless all of its tensors are there and no others."""
        checkpoint.fill_with("weights", self.path, network, self.tensors)
