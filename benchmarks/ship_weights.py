"""Write the weights of a checkpoint in float16: small enough to come with the repository.

    python3 benchmarks/ship_weights.py --checkpoint NAME --output checkpoints/mnist_masked_band.pth
    python3 benchmarks/ship_weights.py --checkpoint NAME --towards LATER_NAME --share 0.2 --output between.pth

Kept are the weights and what the checkpoint says of itself, not what training would go on with. Rounding makes another
classifier: certify the file that this writes, and report those numbers. With --towards, weights lie a share of the way
from one checkpoint to what a further training made of it, which may be better than either.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from patchcert import checkpoint, cli  # noqa: E402
from patchcert.errors import UsageError  # noqa: E402
from patchcert.option_values import fraction, output_file  # noqa: E402


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="NAME", help="a name under checkpoints/ or a path")
    parser.add_argument("--towards", metavar="NAME", help="a further training of the network in --checkpoint")
    parser.add_argument("--share", type=fraction, help="of the way from --checkpoint to --towards")
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
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    checkpoint.save({"net": halves, "trained_as": source} | kept, options.output)


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
