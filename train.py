"""Train networks whose robustness to patch or sparse attacks is certified by interval bounds.

    python3 train.py --config config/mnist_robtrain_p22_all.json --model_subset 0
    python3 train.py --config config/cifar_robtrain_p55_rand20.json --model_subset 3 --gpu 0,1

The method is that of Chiang et al., "Certified Defenses for Adversarial Patches", ICLR 2020. Each file in config/ is
one experiment: data, networks, attack and schedule. The script writes MODELS_PATH/MODEL_ID.pth, MODEL_ID_best.pth and
MODEL_ID.log. After an interruption, run the same command again: it continues, and does not repeat what is finished.
"""

from pathlib import Path

from patchcert import cli
from patchcert.experiments.intervals import train_with_bounds
from patchcert.experiments.setting import add_save_every, add_subset
from patchcert.intervals import arguments
from patchcert.option_values import positive_int


def main() -> None:
    parser = arguments.shared_parser(__doc__)
    add_subset(parser)
    add_save_every(parser)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", type=Path, metavar="FILE", help="checkpoint to continue from: MODEL_ID.pth")
    start.add_argument(
        "--overwrite", action="store_true", help="train again, and replace what earlier runs of these models left"
    )
    parser.engine.add_argument(
        "--grad-acc-steps", type=positive_int, default=1, help="number of parts into which a batch is split"
    )
    parser.engine.add_argument(
        "--amp", action="store_true", help="compute the convolutions of bounds for patches in bfloat16; this is faster"
    )
    train_with_bounds(arguments.parse(parser))


if __name__ == "__main__":
    cli.run(main)
