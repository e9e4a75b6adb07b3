"""Write the weights of a checkpoint, in float16 unless told otherwise: small enough to come with the repository.

    python3 benchmarks/ship_weights.py --checkpoint NAME --output checkpoints/mnist_masked_band.pth
    python3 benchmarks/ship_weights.py --checkpoint NAME --towards LATER_NAME --share 0.2 --output between.pth
    python3 benchmarks/ship_weights.py --checkpoint NAME --float32 --windows 9x6 --output checkpoints/cifar_windows.pth

Kept are the weights and what the checkpoint says of itself, not what training would go on with. Rounding makes another
classifier: certify the file that this writes, and report those numbers. With --towards, weights lie a share of the way
from one checkpoint to what a further training made of it, which may be better than either. With --windows, the file of
a network for hidden windows names other windows than it was trained with, and those are hidden when it certifies.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from torch import Tensor

from patchcert import checkpoint, cli
from patchcert.ablations.windows import WindowPairs
from patchcert.errors import UsageError
from patchcert.option_values import fraction, output_file, windows_or_none


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="NAME", help="a name under checkpoints/ or a path")
    parser.add_argument("--towards", metavar="NAME", help="a further training of the network in --checkpoint")
    parser.add_argument("--share", type=fraction, help="of the way from --checkpoint to --towards")
    parser.add_argument("--windows", type=windows, metavar="WxK", help="K × K windows of W × W pixels to certify with")
    parser.add_argument("--float32", action="store_true", help="keep the weights as they are")
    parser.add_argument("--output", type=output_file, required=True, metavar="FILE.pth", help="the smaller file")
    options = parser.parse_args()
    if (options.towards is None) != (options.share is None):
        raise UsageError("share", options.share, "expected a number beside --towards, and nothing without it")
    path, content = found("checkpoint", options.checkpoint)
    weights, source = content["net"], path.name
    kept = {key: content[key] for key in ("acc", "epoch", "about") if key in content}
    if options.towards:
        path, later = found("towards", options.towards)
        if network_of(later) != network_of(content):
            raise UsageError("towards", options.towards, "expected a further training of the network in --checkpoint")
        weights = {name: between(tensor, later["net"][name], options.share) for name, tensor in weights.items()}
        source = f"{options.share:g} of the way from {source} to {path.name}"
        kept = {key: later[key] for key in ("epoch", "about") if key in later}
    if options.windows:
        kept = {"epoch": content["epoch"], "about": hiding(options.windows, options.checkpoint, content)}
    if not options.float32:
        weights = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    checkpoint.save({"net": dict(weights), "trained_as": source} | kept, options.output)


def windows(text: str) -> tuple[int, int]:
    """Side and number along each side of windows, 9x6."""
    if text == "none":
        raise argparse.ArgumentTypeError("none: expected WxK, such as 9x6")
    return windows_or_none(text)


def hiding(sizes: tuple[int, int], name: str, content: dict) -> dict:
    """What the checkpoint `name` says of itself, with windows of these `sizes` in place of its own.

    Raises:
        UsageError: it is of no network for hidden windows, or there are no such windows.
    """
    said = checkpoint.about(content) or {}
    ablation = said.get("ablation", {})
    if ablation.get("kind") != WindowPairs.__name__:
        raise UsageError("windows", "{}x{}".format(*sizes), f"{name} is of no network for hidden windows")
    made = WindowPairs(ablation["height"], ablation["width"], *sizes)
    return said | {"ablation": ablation | {"window_size": made.window_size, "per_side": made.per_side}}


def found(option: str, name: str) -> tuple[Path, dict]:
    path = checkpoint.find(option, name)
    content = checkpoint.read(option, path)
    checkpoint.tensors_of(option, path, content)
    return path, content


def network_of(content: dict) -> tuple:
    """What trainings of one network have in common: its description, and the shapes of its weights."""
    said = checkpoint.about(content) or {}
    return said.get("network"), {name: tensor.shape for name, tensor in content["net"].items()}


def between(first: Tensor, second: Tensor, share: float) -> Tensor:
    """A share of the way from the first to the second; of what is counted, the second."""
    return torch.lerp(first.float(), second.float(), share) if first.is_floating_point() else second


if __name__ == "__main__":
    cli.run(main)
