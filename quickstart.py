"""Train a patch-robust classifier of handwritten digits and certify it for every patch size from 1 to 8.

    python3 quickstart.py
    python3 quickstart.py --end_epoch 99 --output results/longer.json

The whole path of (de)randomized smoothing on the 1,797 digits that ship inside scikit-learn, without a download:
a base classifier sees one band of 4 columns at a time, all 28 bands vote, and a lead large enough is a proof.
"""

from pathlib import Path

from patchcert import cli, experiment
from patchcert.ablation import Band
from patchcert.networks import mnist_network
from patchcert.voting import ThresholdVote


def main() -> None:
    parser = cli.training_parser(__doc__, ("digits",), lr=0.03, regularization=0.0005, end_epoch=59)
    default = Path("results/quickstart.json")
    parser.add_argument("--output", type=cli.output_file, default=default, help="the certified numbers")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    ablation = Band(28, 28, 4)
    checkpoint = experiment.train(options, ablation, mnist_network, "digits_one_band", "band_4")
    command = ["--checkpoint", checkpoint, "--all", "--size_to_certify", "1-8", "--device", options.device]
    command += ["--output", options.output]
    certify_options = cli.certification_parser(__doc__, ("digits",)).parse_args([str(word) for word in command])
    experiment.certify(certify_options, ablation, mnist_network(), [ThresholdVote(0.2)])
    print(f"written to {options.output}")


if __name__ == "__main__":
    cli.run(main)
