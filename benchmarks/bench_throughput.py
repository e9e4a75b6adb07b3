"""Images per second of every stage: loading, augmentation, training step, certification; loader and network apart.

    python3 -m benchmarks.bench_throughput --pictures data/cifar10/test --output results/throughput.json
    python3 -m benchmarks.bench_throughput --pictures data/imagenet_sample --image_size 299 --amp --output FILE.json

Each stage runs `--repeats` times after a first one that does not count; the best time of one process is reported.
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import records
from patchcert import cli
from patchcert.ablations.ablation import Band
from patchcert.data.augmentation import random_crop, random_flip
from patchcert.data.dataset import Dataset
from patchcert.data.folders import PictureFolder, normalise_imagenet
from patchcert.engines import asking
from patchcert.option_values import device, output_file, positive_int
from patchcert.small_networks import cifar_resnet
from patchcert.steps import Steps
from patchcert.training import loop
from patchcert.training.objectives import OneCopy, ablated
from patchcert.training.optimizers import Optimizers
from patchcert.training.recipes import Recipe
from resnet_imgnt import imagenet_resnet

COPIES = 4096
"""Ablated copies that are certified at a time."""


def images_per_second(stage: Callable[[], object], images: int, repeats: int, device: torch.device) -> float:
    """The best of `repeats` runs of `stage`, which handles `images` images, after one that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        stage()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return images / min(seconds[1:])


def stages(
    files: PictureFolder, network: nn.Module, ablation: Band, batch: Tensor, labels: Tensor
) -> dict[str, tuple[Callable[[], object], int]]:
    """Each stage's name, what runs it and how many images that handles; `batch` (N, 3, H, W) is uint8."""
    amp = torch.is_autocast_enabled(batch.device.type)
    generator = torch.Generator(batch.device).manual_seed(0)
    held = Dataset(batch, labels, torch.arange(len(labels)))
    recipe = Recipe(lr=0.01, regularization=0.0005, end_epoch=0, batch_size=len(batch), amp=amp)
    optimizers = Optimizers(network, recipe)
    steps = Steps(recipe.batch_size, recipe.seed, batch.device)
    certified = batch[: max(1, COPIES // ablation.count)]
    weights = copy.deepcopy(network).to(torch.bfloat16 if amp else torch.float32)
    engine = asking.engine("windowed", weights, ablation, 2 * batch.shape[1])

    def decode() -> None:
        for _ in files.decoded(files.indices.split(32)):
            pass

    def augment() -> Tensor:
        return random_flip(random_crop(batch / 255, generator), generator)

    def step() -> None:
        steps.begin(0, 0, len(held))
        loop.train_epoch(network.train(), network, optimizers, OneCopy(ablation), held, recipe, steps)

    def certify() -> Tensor:
        return asking.softmax_over(engine, normalise_imagenet(certified / 255), ablation, len(certified))

    count = len(batch)
    return {
        "decode and resize": (decode, len(files)),
        "augment": (augment, count),
        "show an ablation": (lambda: ablated(batch / 255, ablation, generator, "sample"), count),
        "training step": (step, count),
        "certify": (certify, len(certified)),
    }


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--pictures", type=Path, default=Path("data/cifar10/test"), metavar="DIR", help="ImageFolder")
    parser.add_argument("--image_size", type=positive_int, default=32, help="32: CIFAR-10's ResNet-18, else ImageNet's")
    parser.add_argument("--batch_size", type=positive_int, default=128, help="images in a batch")
    parser.add_argument("--limit", type=positive_int, default=2000, metavar="N", help="images to decode")
    parser.add_argument("--repeats", type=positive_int, default=3, help="timed runs of each stage")
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu or cuda")
    parser.add_argument("--amp", action="store_true", help="products and convolutions in bfloat16")
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the numbers here")
    options = parser.parse_args()
    files = PictureFolder("pictures", options.pictures, options.image_size).take(slice(options.limit))
    batch = next(files.take(slice(options.batch_size)).decoded([torch.arange(min(options.batch_size, len(files)))]))
    batch, labels = batch.to(options.device), torch.zeros(len(batch), dtype=torch.int64, device=options.device)
    build, band = (cifar_resnet, 4) if options.image_size == 32 else (imagenet_resnet, 25)
    network = build("resnet18", classes=10).to(options.device)
    ablation = Band(options.image_size, options.image_size, band).to(options.device)
    measured = {}
    with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
        for name, (stage, images) in stages(files, network, ablation, batch, labels).items():
            measured[name] = images_per_second(stage, images, options.repeats, options.device)
            print(f"{name:20s} {measured[name]:10.1f} images/s", flush=True)
    records.write({"images_per_second": measured, "config": cli.configuration(options)}, options.output)


if __name__ == "__main__":
    cli.run(main)
