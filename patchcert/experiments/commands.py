"""What the command `patchcert` runs, and the scripts of the same purpose: for any network, and for those that ship.

Each function parses the options that its `description` introduces, and does what they say.
"""

import argparse
from pathlib import Path

from torch import nn

from patchcert import checkpoint, cli
from patchcert.ablations.ablation import Ablation
from patchcert.ablations.windows import WindowPairs
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.data import named
from patchcert.experiments import reporting
from patchcert.experiments.any_network import add_any_network, any_network
from patchcert.experiments.attacking import (
    add_attack_threshold,
    attack_masked,
    attack_with_patch,
    attacked_patch,
    masked_attack_parser,
    patch_attack_parser,
)
from patchcert.experiments.attacking_windows import attack_windows, windows_attack_parser
from patchcert.experiments.certifying import (
    add_vote,
    certification_parser,
    certify_by_votes,
    certify_saved,
    vote_rules,
    votes_parser,
)
from patchcert.experiments.finetuning import finetune, pretrained_training_parser
from patchcert.experiments.masking import certify_masked, certify_parts, masked_certification_parser
from patchcert.experiments.networks import add_joint, joint_network, joint_networks, masked_network
from patchcert.experiments.saved_runs import saved_run
from patchcert.experiments.saved_windows import certify_saved_windows
from patchcert.experiments.setting import ANY, CIFAR_LIKE, MNIST_LIKE, add_windows, class_count
from patchcert.experiments.windows import certify_windows, windows_certification_parser
from patchcert.option_values import folder, one_patch_size, positive_int, result, result_or_log
from patchcert.reports.exhibits import MOST_IMAGES
from patchcert.reports.points import names_of, points_of
from patchcert.votes import archives, saved_answers, saved_votes
from patchcert.zoo import building
from patchcert.zoo.table import Model, Variant

DATA_SETS = {"mnist": MNIST_LIKE, "cifar10": CIFAR_LIKE}
"""That a network can be asked about, by the one it was trained on."""


def certify_any(description: str) -> None:
    """Certify the votes of a network that the user's own code makes."""
    parser = certification_parser(description, ANY)
    add_any_network(parser)
    add_vote(parser)
    options = parser.parse_args()
    network, ablation = any_network(options)
    certify_by_votes(options, ablation, network, vote_rules(options))


def certify_any_masked(description: str) -> None:
    """Certify such a network by double masking of its scores."""
    parser = masked_certification_parser(description, ANY)
    add_any_network(parser)
    options = parser.parse_args()
    certify_masked(options, *any_network(options))


def certify_pretrained(description: str) -> None:
    """Certify a network as somebody pretrained it."""
    certify_windows(windows_certification_parser(description).parse_args())


def finetune_pretrained(description: str) -> None:
    """Train such a network on hidden windows."""
    finetune(pretrained_training_parser(description).parse_args())


def attack_any(description: str) -> None:
    """Attack the votes of a network that the user's own code makes."""
    parser = patch_attack_parser(description, ANY)
    add_any_network(parser)
    add_attack_threshold(parser)
    options = parser.parse_args()
    network, ablation = any_network(options)
    attack_with_patch(options, network, SmoothedClassifier(network, ablation, options.threshold))


def attack_any_masked(description: str) -> None:
    """Attack double masking of such a network's scores."""
    parser = masked_attack_parser(description, ANY)
    add_any_network(parser)
    options = parser.parse_args()
    attack_masked(options, *any_network(options))


def attack_pretrained(description: str) -> None:
    """Attack a network as somebody pretrained it, under hidden windows."""
    attack_windows(windows_attack_parser(description).parse_args())


def certify_votes(description: str) -> None:
    """Answer further questions about saved votes, or saved answers about hidden windows."""
    options = votes_parser(description).parse_args()
    kinds = {saved_votes.KIND: saved_votes.of, saved_answers.KIND: saved_answers.of}
    saved = archives.read(options.votes, kinds)
    if isinstance(saved, saved_answers.SavedAnswers):
        certify_saved_windows(options, saved)
    else:
        certify_saved(options, saved)


def write_report(description: str) -> None:
    """Write a page about saved results."""
    parser = cli.Parser(description)
    parser.what.add_argument("results", nargs="+", type=result, metavar="RESULTS", help="files that --output wrote")
    parser.output.add_argument("--out", type=folder, required=True, metavar="DIR", help="write index.html here")
    options = parser.parse_args()
    found = [(path, record) for path, record in options.results if record["kind"] in ("certify", "attack", "evaluate")]
    if not found:
        parser.error("RESULTS: not a result of certifying, attacking or eval.py")
    names = names_of([path for path, _ in found])
    most = MOST_IMAGES // len(found)
    runs = [saved_run(name, path, record, most) for name, (path, record) in zip(names, found, strict=True)]
    reporting.write(options.out, runs)


def draw_figures(description: str) -> None:
    """Draw what saved results and training logs say."""
    from patchcert.reports import figures

    parser = cli.Parser(description)
    parser.what.add_argument(
        "results", nargs="+", type=result_or_log, metavar="RESULTS", help="files that --output wrote, and training logs"
    )
    parser.output.add_argument("--out", type=folder, required=True, metavar="DIR", help="write the figures here")
    options = parser.parse_args()
    found = list(zip(names_of([path for path, _ in options.results]), options.results, strict=True))
    logs = {name: content for name, (_, content) in found if isinstance(content, list)}
    points = [point for name, (_, content) in found if name not in logs for point in points_of(name, content)]
    drawn = figures.accuracies(points) | ({"training": figures.training(logs)} if logs else {})
    if not drawn:
        parser.error("RESULTS: nothing to draw, because they differ neither in patch size nor in θ, τ, s or time")
    for name, figure in drawn.items():
        for kind in ("pdf", "png"):
            path = Path(options.out / f"{name}.{kind}")
            figures.save(figure, path)
            print(path)


def certify_shipped(description: str, model: Model, arguments: list[str]) -> None:
    """Certify a network that ships, as its script does; `arguments` are the user's own."""
    variant, arguments = model.variants[0], ["--size_to_certify", str(model.usual_patch), *arguments]
    if variant.votes:
        parser = certification_parser(description, DATA_SETS[model.dataset])
        add_vote(parser)
        parser.set_defaults(threshold=str(variant.threshold), certificate="exact")
        options, network, ablation = _voting(parser, variant, arguments)
        certify_by_votes(options, ablation, network, vote_rules(options))
        return
    parser = masked_certification_parser(description, DATA_SETS[model.dataset])
    options = _masked(parser, model, variant, 32, arguments)
    if _is_joint(variant):
        certify_parts(options, joint_networks(options))
    else:
        certify_masked(options, *_masked_network(options, variant))


def attack_shipped(description: str, model: Model, arguments: list[str]) -> None:
    """Attack a network that ships, as its script does; `arguments` are the user's own."""
    asked = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    asked.add_argument("--size_of_attack", type=one_patch_size)
    for side in ("--patch_height", "--patch_width"):
        asked.add_argument(side, type=positive_int)
    variant = model.variants[0]
    if not any(vars(_before_the_rest(asked, arguments)).values()):
        arguments = ["--size_of_attack", str(model.usual_patch), *arguments]
    if variant.votes:
        parser = patch_attack_parser(description, DATA_SETS[model.dataset])
        add_attack_threshold(parser)
        parser.set_defaults(threshold=variant.threshold)
        options, network, ablation = _voting(parser, variant, arguments)
        attack_with_patch(options, network, SmoothedClassifier(network, ablation, options.threshold))
        return
    parser = masked_attack_parser(description, DATA_SETS[model.dataset], windows=bool(variant.windows))
    options = _masked(parser, model, variant, 4, arguments)
    if _is_joint(variant):
        attack_masked(options, *joint_network(options, attacked_patch(options)))
    else:
        attack_masked(options, *_masked_network(options, variant))


def _before_the_rest(asked: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """What `asked` takes of the arguments; its defaults where they are wrong, of which the whole parser will speak."""
    try:
        return asked.parse_known_args(arguments)[0]
    except argparse.ArgumentError:
        return asked.parse_args([])


def _is_joint(variant: Variant) -> bool:
    return bool(variant.bands and variant.windows)


def _masked(
    parser: cli.Parser, model: Model, variant: Variant, at_once: int, arguments: list[str]
) -> argparse.Namespace:
    """The options in these arguments, with the files of the `variant` before them.

    Args:
        at_once: images of which all copies are asked together, by bands and hidden windows.
    """
    files = ["--checkpoint", variant.files[0]]
    if _is_joint(variant):
        add_joint(parser)
        parser.set_defaults(batch_size=at_once)
        files += ["--windows", variant.windows]
    elif variant.windows:
        add_windows(parser)
        parser.set_defaults(image_size=named.IMAGE_SHAPES[model.dataset][1])
    return parser.parse_args([*files, *arguments])


def _masked_network(options: argparse.Namespace, variant: Variant) -> tuple[nn.Module, Ablation]:
    """The network for bands, or for hidden windows, in `--checkpoint`, and its copies."""
    if variant.bands:
        return masked_network(options)
    path = checkpoint.find("checkpoint", options.checkpoint)
    network, _ = building.windows_network("checkpoint", path, options.image_channels, class_count(options))
    return network, WindowPairs(options.image_size, options.image_size, options.window_size, options.per_side)


def _voting(
    parser: cli.Parser, variant: Variant, arguments: list[str]
) -> tuple[argparse.Namespace, nn.Module, Ablation]:
    """The options in these arguments, with the file of the `variant` before them; the network in it; its copies."""
    options = parser.parse_args(["--checkpoint", *variant.files, *arguments])
    path = checkpoint.find("checkpoint", options.checkpoint)
    return options, *building.voting_network("checkpoint", path, options.image_channels, class_count(options))
