"""Train a patch-robust classifier of handwritten digits, certify it for patches of 1 to 8 pixels a side, and attack it.

    python3 quickstart.py
    python3 quickstart.py --end_epoch 99 --output longer.json

The whole path of (de)randomized smoothing on the 1,797 digits that ship inside scikit-learn, without a download:
a base classifier sees one band of 4 columns at a time, all 28 bands vote, and a lead large enough is a proof. Then
patches of 5 × 5 pixels attack every eighth test image; pictures of what flips lie beside the numbers.
"""

from pathlib import Path

from patchcert import (
    Band,
    Classifier,
    ThresholdVote,
    attack_with_patch,
    certification_parser,
    certify,
    cli,
    mnist_network,
    output_file,
    patch_attack_parser,
    train,
    training_parser,
)


def main() -> None:
    parser = training_parser(__doc__, ("digits",), lr=0.03, regularization=0.0005, end_epoch=59)
    default = Path("results/quickstart.json")
    parser.add_argument("--output", type=output_file, default=default, help="the certified numbers")
    options = parser.parse_args()
    pictures = options.output.with_name(f"{options.output.stem}_flipped")
    pictures.mkdir(parents=True, exist_ok=True)
    ablation, rule, network = Band(28, 28, 4), ThresholdVote(0.2), mnist_network()
    trained = train(options, ablation, mnist_network, "digits_one_band", "band_4")
    shared = ["--checkpoint", trained, "--all", "--device", options.device]

    certifying = certification_parser(__doc__, ("digits",))
    certify(
        certifying.parse_args([*map(str, shared), "--size_to_certify", "1-8", "--output", str(options.output)]),
        ablation,
        network,
        [rule],
    )
    print(f"written to {options.output}")

    attacking = patch_attack_parser(__doc__, ("digits",))
    effort = "--size_of_attack 5 --skip 8 --loss margin --randomizations 6 --steps 20 --batch_size 512"
    attack_with_patch(
        attacking.parse_args([*map(str, shared), *effort.split(), "--save_images", str(pictures)]),
        network,
        Classifier(network, ablation, rule),
    )


if __name__ == "__main__":
    cli.run(main)
