"""What a checkpoint says of itself, its entry `about`: defaults for options, and whether a run is of the same kind.

Checkpoints without the entry, those of the paper's scripts among them, say nothing: nothing is taken over or compared.
"""

import argparse
from pathlib import Path

from torch import nn

from patchcert import checkpoint, distributed, messages, networks
from patchcert.ablations.ablation import Ablation, Row, parameters
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.ablations.kinds import KINDS
from patchcert.cli import HelpFormatter, Parser
from patchcert.engines.columns import LinesNetwork, Shape
from patchcert.errors import UsageError
from patchcert.version import VERSION

IMAGE_SIZE = ("height", "width")

ABLATION_SIZES = {name for kind in KINDS.values() for name in parameters(kind)} - set(IMAGE_SIZE)

OF_BANDS = ("channels", "blocks", "lines", "stem")
"""Options that describe a network which answers for all bands in one pass."""

KNOWN = {"dataset", "model", "image_size", *OF_BANDS} | ABLATION_SIZES
"""Options that a checkpoint has values for."""


FILES = ("checkpoint", "windows", "weights")
"""Options that name files of weights which results come from."""


class CheckpointParser(Parser):
    """Options that are not given are what the checkpoint says that `--checkpoint`, or another `option`, names.

    The parsed options have `about` too: what the file says, or None, as its entry `checkpoint`.

    Raises:
        UsageError: when parsing; there is no such checkpoint.
    """

    def __init__(self, description: str, option: str):
        super().__init__(description)
        self.option, self.formatter_class = option, _CheckpointFirst

    def parse_known_args(self, *arguments, **more) -> tuple[argparse.Namespace, list[str]]:
        options, rest = super().parse_known_args(*arguments, **more)
        about = self._said(getattr(options, self.option))
        if about:
            self.set_defaults(**self._values(about))
            options, rest = super().parse_known_args(*arguments, **more)
        options.about = {"checkpoint": about}
        return options, rest

    def _said(self, name: str | None) -> dict | None:
        """What the checkpoint called `name` says of itself.

        Raises:
            UsageError: its weights are not those of the network that it describes, which may be of any size.
        """
        if not name:
            return None
        path = checkpoint.find(self.option, name)
        content = checkpoint.read(self.option, path)
        about = checkpoint.about(content)
        network = about and _described(about)
        if network:
            checkpoint.require_same(self.option, path, network, checkpoint.tensors_of(self.option, path, content))
        return about

    def _values(self, about: dict) -> dict[str, object]:
        """Of what the checkpoint says, the values that options of this parser can have."""
        ablation, network = about["ablation"], about["network"]
        said = ablation | {"dataset": about["dataset"], "model": network["name"], "image_size": ablation["height"]}
        said |= {name: network[name] for name in OF_BANDS if name in network}
        said = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
        options = {action.dest: action.choices for action in self._actions if action.dest in KNOWN}
        return {name: said[name] for name in options.keys() & said if said[name] in (options[name] or [said[name]])}


def _described(about: dict) -> LinesNetwork | None:
    """The network for bands that a checkpoint describes, without memory for weights; None if it describes none."""
    try:
        return LinesNetwork.without_memory(Shape.described(about["network"]))
    except (ValueError, UsageError):
        return None


class _CheckpointFirst(HelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        if action.dest in KNOWN and action.default is not None:
            return f"{action.help} (default: the checkpoint's, else %(default)s)"
        return super()._get_help_string(action)


def of_run(options: argparse.Namespace, network: nn.Module, ablation: Ablation | HiddenWindows) -> dict:
    """What a checkpoint of this run says of itself; `Whole` is the ablation of an undefended network."""
    folder = {"folder": options.data.resolve().name} if options.dataset == "folder" else {}
    described = networks.description(network)
    return {
        "dataset": options.dataset,
        **folder,
        "classes": described.get("classes", checkpoint.class_count(network.state_dict())),
        "ablation": ablation.description(),
        "network": described,
        "patchcert": VERSION,
    }


def fill(
    option: str, options: argparse.Namespace, network: nn.Module, ablation: Ablation | HiddenWindows | None
) -> dict:
    """Fill `network` from the checkpoint that `--option` names, with --weights anybody's; returns its content.

    Raises:
        UsageError: it is of another network, or a row network of a version that showed it upright images.
    """
    path, said = checkpoint.find(option, getattr(options, option)), options.about["checkpoint"]
    here = networks.description(network)
    if said and said["network"] != here:
        names = [_spoken(description, "name") for description in (said["network"], here)]
        raise UsageError(option, path, f"is of another network: {names[0]}, not {names[1]}")
    content = checkpoint.load_network(option, path, network, entry=None if option == "weights" else "net")
    if isinstance(ablation, Row) and "settings" in content and said is None:
        right = "expected one trained anew: row networks of earlier versions saw upright images"
        raise UsageError(option, path, right)
    return content


def digests(options: argparse.Namespace) -> dict[str, str]:
    """The SHA-256 of each file of weights that the options name, by the option."""
    named = {option: getattr(options, option, None) for option in FILES}
    return {option: checkpoint.sha256(checkpoint.find(option, name)) for option, name in named.items() if name}


def hold_against(options: argparse.Namespace, run: dict, name: str) -> None:
    """Note what this run is beside what its checkpoint, called `name`, says, and say what differs."""
    said = options.about["checkpoint"]
    options.about["run"] = run
    if said is None or not distributed.is_first():
        return
    pairs = zip(_kinds(said), _kinds(run), strict=True)
    differing = [pair for pair in pairs if pair[0] != pair[1]]
    if differing:
        messages.print_other_kind(Path(name).name, *map(", ".join, zip(*differing, strict=True)))


def _kinds(about: dict) -> list[str]:
    """In words: data set, ablation, size of images."""
    sizes = {name: value for name, value in about["ablation"].items() if name not in IMAGE_SIZE}
    height, width = (about["ablation"][name] for name in IMAGE_SIZE)
    dataset = f"{about['dataset']} {about.get('folder', '')}".strip()
    return [f"data set {dataset}", f"ablation {_spoken(sizes, 'kind')}", f"{height} × {width} pixels"]


def _spoken(description: dict, name: str) -> str:
    """A description in words, its entry `name` first: Band (band_size 4)."""
    values = [f"{key} {value}" for key, value in description.items() if key != name]
    return f"{description[name]} ({', '.join(values)})" if values else str(description[name])
