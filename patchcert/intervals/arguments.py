"""The options that train.py and eval.py share."""

import argparse
import os
import sys
from pathlib import Path

import torch

from patchcert import arithmetic, cli, distributed
from patchcert.errors import UsageError
from patchcert.intervals import config_files
from patchcert.option_values import device, folder, gigabytes, seed


def shared_parser(description: str) -> cli.Parser:
    """The options that train.py and eval.py share; `parse` reads them."""
    parser = cli.Parser(description)
    parser.what.add_argument("--config", type=Path, required=True, metavar="FILE.json", help="the experiment")
    parser.what.add_argument(
        "--model_subset", nargs="+", metavar="N", help="numbers of the config's models (default: all of them)"
    )
    parser.what.add_argument(
        "--path_prefix", type=Path, default=Path(), metavar="DIR", help="folder that contains models_path"
    )
    parser.data.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="folder of the data sets")
    parser.engine.add_argument("--device", type=device, default="auto", help="auto, cpu or cuda")
    parser.engine.add_argument(
        "--max_memory", type=gigabytes, default=2.0, metavar="GB", help="most memory that bounds may take at a time"
    )
    parser.engine.add_argument("--seed", type=seed, default=2019, help="seed of all random numbers")
    parser.engine.add_argument("--deterministic", action="store_true", help=arithmetic.REPEATABLE)
    parser.engine.add_argument("--gpu", metavar="0,1", help="run on these GPUs, with one process for each")
    parser.what.add_argument("overrides", nargs="*", metavar="section:key=value", help="replaces a value of the config")
    return parser


def parse(parser: cli.Parser) -> argparse.Namespace:
    """Parse, and load the config: adds `experiment`, `models` (the chosen ones), `folder` and `bytes`."""
    options = parser.parse_intermixed_args()
    numbers = options.model_subset
    if numbers is not None:  # argparse takes overrides that follow --model_subset for numbers
        options.overrides += [text for text in numbers if "=" in text]
        try:
            numbers = options.model_subset = [int(text) for text in numbers if "=" not in text]
        except ValueError as error:
            right = "expected whole numbers; overrides are section:key=value"
            raise UsageError("model_subset", " ".join(numbers), right) from error
    options.experiment = config_files.load(options.config, options.overrides)
    options.models = options.experiment.chosen(numbers)
    options.folder = options.path_prefix / options.experiment.models_path
    options.bytes = int(options.max_memory * 1e9)
    if options.gpu is not None and "RANK" not in os.environ:
        _restart_on_gpus(options.gpu)
    distributed.start(options.device)
    arithmetic.be_deterministic(options.deterministic, options.device)
    return options


def require_models_folder(path: Path) -> None:
    """Raise UsageError unless models can be written to `path`, which is made."""
    try:
        folder(str(path))
    except argparse.ArgumentTypeError as error:
        right = f"expected a folder that takes new files: {str(error).removeprefix(f'{path}: ')}"
        raise UsageError("config", f"models_path={path}", right) from error


def _restart_on_gpus(gpus: str) -> None:
    """Run this very command again under torchrun, one process for each of `gpus` (0,1), and see no others."""
    numbers = gpus.split(",")
    if not all(number.isdecimal() for number in numbers) or len(set(numbers)) < len(numbers):
        raise UsageError("gpu", gpus, "expected numbers of GPUs with commas, such as 0,1")
    if any(int(number) >= torch.cuda.device_count() for number in numbers):
        raise UsageError("gpu", gpus, f"there are {torch.cuda.device_count()} GPUs here, counted from 0")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        numbers = [visible.split(",")[int(number)] for number in numbers]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(numbers)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(len(numbers))]
    os.execv(sys.executable, [sys.executable, *torchrun, *sys.argv])
