"""Write the weights of a checkpoint in float16: small enough to come with the repository.

    python3 benchmarks/ship_weights.py --checkpoint NAME --output checkpoints/mnist_masked_band.pth

Kept are the weights and what the checkpoint says of itself, not what training would go on with. Rounding makes another
classifier: certify the file that this writes, and report those numbers.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from patchcert import checkpoint, cli  # noqa: E402
from patchcert.option_values import output_file  # noqa: E402


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="NAME", help="a name under checkpoints/ or a path")
    parser.add_argument("--output", type=output_file, required=True, metavar="FILE.pth", help="the smaller file")
    options = parser.parse_args()
    path = checkpoint.find("checkpoint", options.checkpoint)
    content = checkpoint.read("checkpoint", path)
    weights = {
        key: tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        for key, tensor in content["net"].items()
    }
    kept = {key: content[key] for key in ("acc", "epoch", "about") if key in content}
    checkpoint.save({"net": weights, "trained_as": path.name} | kept, options.output)


if __name__ == "__main__":
    cli.run(main)
