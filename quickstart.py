"""Train patch-robust classifiers of handwritten digits, certify them for patches of 1 to 8 pixels a side, attack one.

    python3 quickstart.py
    python3 quickstart.py --end_epoch 99 --output longer.json

The script runs all of (de)randomized smoothing on the 1,797 digits that come with scikit-learn, without a download. A
base classifier sees one band of 4 columns at a time, and all 28 bands vote. If one class leads by enough votes, this is
a proof. Then patches of 5 × 5 pixels attack every eighth test image, and images that flip are saved beside the numbers.
For comparison, the script then trains a second network, which answers for all bands of columns and rows in one pass.
Double masking certifies it.
"""

from pathlib import Path

from patchcert import (
    Band,
    Shape,
    SmoothedClassifier,
    ThresholdVote,
    attack_with_patch,
    certification_parser,
    certify_by_votes,
    certify_masked,
    cli,
    masked_certification_parser,
    masked_network,
    masked_training_parser,
    mnist_network,
    output_file,
    patch_attack_parser,
    print_side_by_side,
    say,
    train,
    train_masked,
    training_parser,
)

TRAINING = """1. Training a network on scikit-learn's handwritten digits, 28 × 28 pixels. It sees one band of 4
columns at a time. `ablated test` is the share of single bands of test digits that it classifies
correctly. This share is low at first and never high, because many bands show an empty border, or a
stroke that several digits share. That does not matter, because no single band decides: all 28 bands
vote."""

CERTIFYING = """
2. Certifying all test digits. A patch of m × m pixels can touch at most m + 3 of the 28 bands. If the winner leads by
more than twice as many votes, nothing in the patch changes the answer. Each line is for one m. It says how many digits
are classified correctly, how many of these provably stay so, and how many wrong answers no patch can change."""

ATTACKING = """
3. Attacking every eighth test digit with patches of 5 × 5 pixels. Their content is optimised to change the answer. A
digit that is certified for m = 5 cannot flip. If one flipped, this script would fail."""

MASKING = """
4. The same digits by double masking. One network answers for all bands of columns and of rows in one pass. Each answer
depends on its band alone. The bands do not vote: their scores are added up. For every two places of a patch, the bands
that are touched there are left out. If the answer is the same for all pairs of places, it is proven. `worst pair test`
is the share of test digits for which the right class leads at the worst pair for m = 5. A certificate also needs a lead
that is too large for rounding to undo."""


def main() -> None:
    parser = training_parser(__doc__, ("digits",), lr=0.03, regularization=0.0005, end_epoch=59)
    default = Path("results/quickstart.json")
    parser.output.add_argument("--output", type=output_file, default=default, help="write the certified numbers here")
    options = parser.parse_args()
    pictures = options.output.with_name(f"{options.output.stem}_flipped")
    pictures.mkdir(parents=True, exist_ok=True)
    for of_earlier_run in pictures.glob("*.png"):
        of_earlier_run.unlink()
    ablation, network = Band(28, 28, 4), mnist_network()
    say(TRAINING)
    trained = train(options, ablation, mnist_network, "digits_one_band", "band_4")
    shared = ["--all", "--device", str(options.device), "--overwrite"]
    sizes = ["--size_to_certify", "1-8", "--checkpoint"]

    say(CERTIFYING)
    certifying = certification_parser(__doc__, ("digits",))
    certify_by_votes(
        certifying.parse_args([*shared, *sizes, str(trained), "--output", str(options.output)]),
        ablation,
        network,
        [ThresholdVote(0.2)],
    )
    print(f"written to {options.output}")

    say(ATTACKING)
    attacking = patch_attack_parser(__doc__, ("digits",))
    effort = "--size_of_attack 5 --skip 8 --loss margin --randomizations 6 --steps 20 --batch_size 512"
    attack_with_patch(
        attacking.parse_args([*shared, *effort.split(), "--save_images", str(pictures), "--checkpoint", str(trained)]),
        network,
        SmoothedClassifier(network, ablation, 0.2),
    )
    grids = sorted(pictures.resolve().glob("grid_*.png"))
    print(f"clean, attacked, difference: {grids[0]}" if grids else "no digit flipped, so there is no image")

    say(MASKING)
    parser = masked_training_parser(__doc__, ("digits",), "16,32,64", "0,1,1", lr=0.02, end_epoch=14)
    masked = parser.parse_args(["--batch_size", "64", "--end_epoch", str(min(options.end_epoch, 14))])
    for name in ("device", "seed", "overwrite", "subset", "amp", "save_every"):
        setattr(masked, name, getattr(options, name))
    shape = Shape(masked.channels, masked.blocks, 4, masked.lines, height=28, width=28, image_channels=1, classes=10)
    trained = train_masked(masked, shape, "digits_masked_band")
    output = options.output.with_name(f"{options.output.stem}_masked.json")
    masking = masked_certification_parser(__doc__, ("digits",))
    certifying = masking.parse_args([*shared, *sizes, str(trained), "--output", str(output)])
    certify_masked(certifying, *masked_network(certifying))
    print_side_by_side({"votes": options.output, "masking": output})


if __name__ == "__main__":
    cli.run(main)
