"""Certify ImageNet images against patches by votes of ablated copies that show one band of columns.

    python3 certify_imagenet_band.py --band_size 25 --size_to_certify 42 --valpath DIR --checkpoint NAME
    torchrun --nproc_per_node=8 certify_imagenet_band.py --amp --test --valpath DIR --checkpoint NAME

Each copy votes for every class whose probability is at least θ (Levine and Feizi, NeurIPS 2020, section 3). The script
certifies every 50th image. With --test, it certifies the images halfway between these.
"""

from patchcert import (
    IMAGENET,
    Band,
    ThresholdVote,
    add_network,
    add_threshold,
    certification_parser,
    certify_by_votes,
    class_count,
    cli,
)
from resnet_imgnt import MODELS, imagenet_resnet


def main() -> None:
    parser = certification_parser(__doc__, IMAGENET, size_to_certify=42)
    add_network(parser, MODELS, "resnet50", image_size=299)
    parser.add_argument(
        "--band_size", type=int, default=25, help="s, the number of columns that an ablated image shows"
    )
    add_threshold(parser)
    options = parser.parse_args()
    rules = [ThresholdVote(threshold) for threshold in options.threshold]
    ablation = Band(options.image_size, options.image_size, options.band_size)
    network = imagenet_resnet(options.model, classes=class_count(options))
    certify_by_votes(options, ablation, network, rules)


if __name__ == "__main__":
    cli.run(main)
