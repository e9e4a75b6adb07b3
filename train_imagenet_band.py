"""Train a classifier of ImageNet images that sees one band of columns.

    python3 train_imagenet_band.py --band_size 25 --lr 0.1 --trainpath DIR --valpath DIR --end_epoch 89
    torchrun --nproc_per_node=8 train_imagenet_band.py --band_size 25 --lr 0.1 --amp --pretrained \\
        --trainpath DIR --valpath DIR --end_epoch 29

This is the base classifier of (de)randomized smoothing (Levine and Feizi, NeurIPS 2020, section 4). Images have
299 × 299 pixels. They are normalised, and mirrored at random. The script writes checkpoints/imagenet_one_band_….pth and
a log beside it.
"""

from patchcert import IMAGENET, Band, add_network, class_count, cli, random_flip, train, training_parser
from resnet_imgnt import MODELS, imagenet_resnet, pretrained_imagenet_resnet


def main() -> None:
    parser = training_parser(__doc__, IMAGENET, lr=0.1, regularization=0.0005, end_epoch=199, batch_size=196)
    add_network(parser, MODELS, "resnet50", image_size=299)
    parser.add_argument("--pretrained", action="store_true", help="start from torchvision's weights")
    parser.add_argument(
        "--band_size", type=int, default=25, help="s, the number of columns that an ablated image shows"
    )
    options = parser.parse_args()
    build = pretrained_imagenet_resnet if options.pretrained else imagenet_resnet
    classes = class_count(options)
    train(
        options,
        Band(options.image_size, options.image_size, options.band_size),
        lambda: build(options.model, classes=classes),
        stem="imagenet_one_band",
        details=f"model_{options.model}__band_{options.band_size}",
        augmentations=(random_flip,),
    )


if __name__ == "__main__":
    cli.run(main)
