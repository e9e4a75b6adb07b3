"""The command `patchcert`, which `python -m patchcert` is, too: what can be done, and which module does it."""

import difflib
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module

from patchcert.version import VERSION
from patchcert.zoo import table

USAGE = """Certified defences against adversarial patches.

    patchcert models                           list the networks that ship, with their accuracies
    patchcert models NAME                      show one of them, at every patch size
    patchcert certify NAME …                   certify a network that ships
    patchcert certify votes|masking|windows …  certify your own network
    patchcert attack NAME …                    attack a network that ships
    patchcert attack votes|masking|windows …   attack your own network
    patchcert votes …                          answer further questions from saved votes, without a network
    patchcert report … --out DIR               write a web page from saved results
    patchcert figures … --out DIR              draw saved results for papers

Add --help to any of them to see its options. `patchcert --version` prints the version.
"""

VOTES = """
    patchcert {0} votes --model package.module:factory --weights FILE --ablation band:4
    patchcert {0} votes --model package.module:factory --ablation block:8 --dataset folder --data DIR --image_size 64

factory() is a function in your own code. It returns a torch.nn.Module that maps ablated copies (N, 2C, H, W) to logits
(N, K). The channels are (x, 1 − x), and zeros where pixels are hidden. To certify anything, the network must have been
trained on such copies. timm:NAME, torchvision:NAME or hf:FOLDER names a pretrained network for whole images.
"""

MASKING = """
    patchcert {0} masking --model package.module:factory --weights FILE --ablation band:4
    patchcert {0} masking --model package.module:factory --ablation window_pairs:11x4

The network is the same as for `patchcert {0} votes`. For each place of the patch, its logits are added up over the
copies that the patch does not touch there.
"""

WINDOWS = """
    patchcert {0} windows --model timm:NAME --weights FILE --data DIR --classes imagenet
    patchcert {0} windows --model package.module:factory --data DIR --classes imagenet

The network is not retrained. Windows of the image are hidden, and one of them covers the patch, wherever it lies.
"""

WAYS = {
    "certify": {
        "votes": ("certify_any", "Certify your own network by votes of ablated copies.", VOTES),
        "masking": ("certify_any_masked", "Certify your own network by double masking.", MASKING),
        "windows": ("certify_pretrained", "Certify a pretrained network, unchanged, by hiding windows.", WINDOWS),
    },
    "attack": {
        "votes": ("attack_any", "Attack your own network, defended by votes of ablated copies.", VOTES),
        "masking": ("attack_any_masked", "Attack your own network, defended by double masking.", MASKING),
        "windows": ("attack_pretrained", "Attack a pretrained network, defended by hiding windows.", WINDOWS),
    },
}
"""Ways in which a network of one's own is certified or attacked: the function of `experiments.commands`, and help."""

OF_SHIPPED = """{1} a network that ships: {2}.

    patchcert {0} {3} --data DIR --all
    patchcert {0} {3} --data DIR --limit 100 --output {0}.json

Its weights and settings are fixed. DIR holds the data set. To use your own images, add --dataset folder --data DIR.
"""

OF_FILES = {
    "votes": (
        "certify_votes",
        """Answer further questions about images that were certified with --save_votes. No network runs.

    patchcert votes --votes votes.npz --size_to_certify 1-10 --threshold 0.1,0.2,0.3 --certificate margin,exact
""",
    ),
    "report": (
        "write_report",
        """Write a web page, index.html, from what certifying and attacking saved with --output.

    patchcert report certify.json attack.json --out report
""",
    ),
    "figures": (
        "draw_figures",
        """Draw saved results and training logs for papers, as PDF and PNG.

    patchcert figures certify.json --out figures
""",
    ),
}


def main() -> None:
    """Do what the arguments say, and end with an exit code: 2 for wrong use."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE, end="")
    elif name == "--version":
        print(f"patchcert {VERSION}")
    elif name == "models":
        _models(arguments)
    elif name in OF_FILES:
        function, description = OF_FILES[name]
        _run(f"patchcert {name}", arguments, function, description)
    elif name in WAYS:
        _certify_or_attack(name, arguments)
    else:
        _refuse(name, ["models", *WAYS, *OF_FILES])


def _certify_or_attack(command: str, arguments: list[str]) -> None:
    """Certify or attack a network that ships, by its name, or one's own in a way; by votes where nothing is named."""
    ways = WAYS[command]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_on(command), end="")
        return
    way, *rest = arguments if not arguments[0].startswith("-") else ["votes", *arguments]
    program = f"patchcert {command} {way}"
    if way in ways:
        function, summary, more = ways[way]
        _run(program, rest, function, f"{summary}\n{more.format(command)}")
    elif way in table.models():
        model = table.named(way)
        description = OF_SHIPPED.format(command, command.capitalize(), model.defence, way)
        _run(program, rest, f"{command}_shipped", description, model, rest)
    else:
        _refuse(way, [*ways, *table.models()])


def help_on(command: str) -> str:
    """What certifies or attacks, in words."""
    lines = [f"{command.capitalize()} a network that ships, by its name:", ""]
    lines += [f"    patchcert {command} {name}" for name in table.models()]
    lines += ["", f"Or {command} your own network, in one of these ways:", ""]
    width = max(map(len, WAYS[command]))
    for way, (_, summary, _) in WAYS[command].items():
        lines.append(f"    patchcert {command} {way.ljust(width)}   {summary}")
    lines += ["", "Add --help to any of them to see its options. If you name none of them, the command takes votes."]
    return "\n".join(lines) + "\n"


def _models(arguments: list[str]) -> None:
    if arguments in (["-h"], ["--help"]):
        print("patchcert models lists the networks that ship. patchcert models NAME shows one, at every patch size.")
    elif len(arguments) > 1:
        _stop(f"{' '.join(arguments)}: expected one name, or none")
    elif not arguments:
        print(table.overview())
    elif arguments[0] in table.models():
        print(table.named(arguments[0]).describe())
    else:
        _refuse(arguments[0], [*table.models()])


def _run(program: str, arguments: list[str], function: str, *given: object) -> None:
    """Run a function of `experiments.commands` as a script of this name and these arguments."""
    sys.argv = [program, *arguments]
    from patchcert import cli  # not before: it takes seconds to import torch

    run: Callable[..., None] = getattr(import_module("patchcert.experiments.commands"), function)
    cli.run(partial(run, *given))


def _refuse(name: str, known: list[str]) -> None:
    near = difflib.get_close_matches(name, known, n=1)
    _stop(f"{name}: did you mean {near[0]}?" if near else f"{name}: expected one of {', '.join(known)}")


def _stop(message: str) -> None:
    print(f"patchcert: error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
