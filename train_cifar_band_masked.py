"""Train a network of limited reach on CIFAR-10 images for double masking: columns, rows or both.

    python3 train_cifar_band_masked.py --amp
    python3 train_cifar_band_masked.py --amp --band_weight 1 --lr 0.012 --end_epoch 39 --resume NAME
    python3 train_cifar_band_masked.py --amp --band_weight 1 --lr 0.02 --end_epoch 71 --resume NAME \\
        --augmentations random_crop,random_flip,random_colours,random_erasing
    python3 train_cifar_band_masked.py --dataset folder --data DIR --image_size 32

One pass computes every fourth band of an image. The loss has two parts. One is the label's lead at the worst pair of
masks, because this lead decides the certificate. The other is the loss of every band by itself. A network that starts
from scratch learns nothing useful from the worst pair alone. So the network that ships came from six runs. Each run
continues the one before (docs/results.md):

  1. the first line above;
  2. the second line, which gives the worst pair more weight;
  3. the third, with augmentations beyond crops and mirror images;
  4. the same again, with --lr 0.018 and --end_epoch 136;
  5. and 6. with --band_weight 0.5, --loss_power 0.7 and random_turn, too, at two learning rates. They give less weight
     to images that are far from a certificate.

benchmarks/ship_weights.py then averaged 0.8 times the weights of the fourth run and 0.2 times those of the sixth. The
script writes checkpoints/cifar_masked_band_….pth and a log.
"""

from patchcert import (
    CIFAR_LIKE,
    Shape,
    add_image_size,
    class_count,
    cli,
    data_name,
    masked_training_parser,
    train_masked,
)


def main() -> None:
    parser = masked_training_parser(__doc__, CIFAR_LIKE, "128,256,384", "1,1,1", lr=0.005, end_epoch=22)
    recipe = {"band_weight": 10.0, "regularization": 0.005, "augmentations": "random_crop,random_flip"}
    parser.set_defaults(stem="whole", band_stride=4, **recipe)
    add_image_size(parser, 32)
    options = parser.parse_args()
    images = {"height": options.image_size, "width": options.image_size, "image_channels": 3}
    bands = {"band_size": options.band_size, "lines": options.lines, "stem": options.stem}
    shape = Shape(options.channels, options.blocks, **bands, **images, classes=class_count(options))
    train_masked(options, shape, stem=f"{data_name(options)}_masked_band")


if __name__ == "__main__":
    cli.run(main)
