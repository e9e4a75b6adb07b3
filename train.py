"""Train networks whose robustness to patch or sparse attacks is certified by interval bounds.

    python train.py --config config/mnist_robtrain_p22_all.json --model_subset 0
    python train.py --config config/cifar_robtrain_p55_rand20.json --model_subset 3 --gpu 0,1

Chiang et al., "Certified Defenses for Adversarial Patches", ICLR 2020. Each file in config/ is one experiment: data,
networks, attack and schedule. Writes MODELS_PATH/MODEL_ID.pth, MODEL_ID_best.pth and MODEL_ID.log. After an
interruption, run the same command again: it continues, and does not repeat what is finished.
"""

import argparse
from pathlib import Path

import torch

from patchcert import cli, distributed, messages
from patchcert.arithmetic import exact_float32
from patchcert.data import named, splits
from patchcert.epochs import no_other_run
from patchcert.errors import UsageError
from patchcert.experiments.setting import add_save_every, add_subset
from patchcert.intervals import arguments, training
from patchcert.option_values import positive_int


def main() -> None:
    parser = arguments.shared_parser(__doc__)
    add_subset(parser)
    add_save_every(parser)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", type=Path, metavar="FILE", help="checkpoint to go on from: MODEL_ID.pth")
    start.add_argument(
        "--overwrite", action="store_true", help="train again, and replace what earlier runs of these models left"
    )
    parser.engine.add_argument(
        "--grad-acc-steps", type=positive_int, default=1, help="parts that a batch is split into"
    )
    parser.engine.add_argument(
        "--amp", action="store_true", help="compute convolutions of patches' bounds in bfloat16, which is faster"
    )
    options = arguments.parse(parser)
    if options.resume and len(options.models) != 1:
        raise UsageError("resume", options.resume, "goes with one model: choose it with --model_subset")
    arguments.require_models_folder(options.folder)
    with no_other_run(training.files(options.folder, model)[0] for model in options.models):
        train(options)


def train(options: argparse.Namespace) -> None:
    parts = [named.load(options.experiment.dataset, options.data, train=part) for part in (True, False)]
    train_set, test_set = (splits.spread(part, options.subset).to(options.device) for part in parts)
    distributed.require_images(min(len(train_set), len(test_set)))
    runs = []
    for model in options.models:
        torch.manual_seed(options.seed)
        shape, asked = train_set.images.shape[1:], (options.bytes, options.amp)
        runs.append(training.Run(options.experiment, model, shape, named.CLASSES, *asked))
    if not (options.resume or options.overwrite):
        for run in runs:  # before the first of them trains for hours
            path, _ = training.files(options.folder, run.model)
            training.left_by_earlier(run, path, training.settings_of(run, train_set, options.seed))
    for run in runs:
        with exact_float32():
            training.train(
                run,
                train_set,
                test_set,
                options.folder,
                options.seed,
                options.grad_acc_steps,
                options.resume,
                options.overwrite,
                options.save_every,
            )
    if distributed.is_first():
        for run in runs:
            messages.print_networks(*training.outcome(run, options.folder))


if __name__ == "__main__":
    cli.run(main)
