"""Which engine runs a network on ablated copies, and on how many of them at once, as options say."""

import argparse
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from patchcert import distributed, messages, results
from patchcert.ablations.ablation import Ablation
from patchcert.classifiers.probing import Manner
from patchcert.cli import Parser
from patchcert.data.folders import Images
from patchcert.engines import asking, batching
from patchcert.engines.asking import Engine
from patchcert.engines.columns import has_limited_reach
from patchcert.engines.windowed import WindowedNetwork
from patchcert.engines.windowed.traces import BeyondWindowsError
from patchcert.errors import Note, UsageError
from patchcert.experiments.any_network import arithmetic_of
from patchcert.journal import Journal
from patchcert.option_values import batch_size


def add_engine(parser: Parser) -> None:
    """The options of a network that runs on ablated copies."""
    parser.engine.add_argument(
        "--engine",
        choices=("auto", "windowed", "dense"),
        default="auto",
        help="windowed computes only what differs from an empty image; dense runs the whole network on every copy; "
        "auto takes windowed if it supports all layers of the network, and dense otherwise",
    )
    parser.engine.add_argument(
        "--batch_size",
        type=batch_size,
        default="128",
        help="ablated copies for each call of the network; auto tries several numbers and takes the fastest",
    )


def engine_of(options: argparse.Namespace, network: nn.Module, ablation: Ablation, dataset: Images) -> Engine:
    """The engine that `--engine` asks for. Its name replaces auto in the options."""
    channels = 2 * dataset.channels
    if has_limited_reach(network):
        options.engine = "shared"
        return asking.SharedNetwork(network, ablation)
    if options.compile and options.engine == "windowed":
        raise UsageError("engine", options.engine, "torch.compile needs the whole network: give --engine dense too")
    if options.engine != "dense" and not options.compile:
        half = torch.bfloat16 if options.amp else None  # autocast alone would convert weights anew for every ablation
        try:
            engine = WindowedNetwork(network, ablation, channels, half)
        except BeyondWindowsError as error:
            if options.engine == "windowed":
                raise
            why = f"the network uses {error.what}, which windowed cannot do"
            warnings.warn(Note(f"--engine dense, since {why}"), stacklevel=3)
        else:
            options.engine = "windowed"
            return engine
    options.engine = "dense"
    return asking.DenseNetwork(network, ablation)


def computed_by(options: argparse.Namespace, engine: Engine, journal: Journal, manner: Manner | None = None) -> dict:
    """What results say of the arithmetic; `manner` is that of a network of the user's own."""
    return results.computed_with(arithmetic_of(options, manner), asking.name_of(engine), journal.processors)


def find_batch_size(
    options: argparse.Namespace, engine: Engine, dataset: Images, ablation: Ablation, use: Callable, journal: Journal
) -> float:
    """Replace `--batch_size auto` by the number that it stands for, the same in all processes and when going on.

    Returns:
        How many of the journal's seconds that took.
    """
    if options.batch_size is not None:
        return 0.0
    share = dataset.take(distributed.share())
    search = partial(batching.fastest_batch_size, engine, share, ablation, use)
    options.batch_size = distributed.from_first(journal.recall("the batch size", dataset.indices[:0], search))
    if distributed.is_first():
        messages.print_batch_size(options.batch_size)
    return journal.seconds()
