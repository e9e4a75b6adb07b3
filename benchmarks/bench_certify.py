"""Time the ways to evaluate a base classifier on all ablated copies of a batch of images.

    python3 benchmarks/bench_certify.py --case mnist_band_4
    python3 benchmarks/bench_certify.py --case cifar_band_4 --amp --output cifar_band_4.json
    python3 benchmarks/bench_certify.py --case mnist_band_4 --amp --checkpoint NAME --images 500

The weights are random, which costs the same as trained ones, unless --checkpoint names some; then test images are
classified, too, and it means something how many answers differ. All ways run in one process on the same weights and
images, in turn, several times; the table shows medians, and medians of the ratios within a repetition.

    plain     the paper's loop: one masked batch of images for each ablation, weights in PyTorch's default layout
    dense     images and ablations folded into batches of --dense_batch copies, weights in the networks' own layout
    windowed  patchcert.engines.windowed: only what differs from the empty image
    bfloat16  (--amp) windowed with weights and activations in bfloat16, which is another classifier

The case cifar_column times another network against the plain loop of its case: one that answers for all bands in one
pass, and whose answers are its own.

    column    patchcert.engines.columns in float32, folded as the certifying scripts do
    autocast  (--amp) the same under autocast to bfloat16
"""

import argparse
import copy
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import records
from patchcert import checkpoint
from patchcert.ablations.ablation import Ablation, Band, Block, encode
from patchcert.data import named
from patchcert.data.folders import PictureFolder, normalise_imagenet
from patchcert.engines.columns import LinesNetwork, Shape
from patchcert.engines.windowed import WindowedNetwork
from patchcert.networks import mnist_network
from patchcert.patch import Patch
from patchcert.votes.certificate import Certifier, Question
from patchcert.votes.rules import ThresholdVote

THRESHOLD, NEAR = 0.2, 1e-4
"""θ of the votes that are compared, and how close to it a probability counts as near."""


@dataclass
class Case:
    """A network, an ablation, test images with C channels, the side of the patch that is certified against (pixels),
    and how many ablations and images are timed by default. With `columns`, the shape of a network that answers for all
    ablations in one pass, which is timed against the plain loop in place of the engines.
    """

    network: Callable[[], nn.Module]
    ablation: Ablation
    dataset: str
    channels: int
    patch: int
    positions: int
    images: int
    columns: Shape | None = None


def cifar_network() -> nn.Module:
    from patchcert.small_networks.resnet import cifar_resnet

    return cifar_resnet("resnet18")


def imagenet_network() -> nn.Module:
    from resnet_imgnt import imagenet_resnet

    return imagenet_resnet("resnet50")


CASES = {
    "mnist_band_4": Case(mnist_network, Band(28, 28, 4), "mnist", channels=1, patch=5, positions=28, images=100),
    "mnist_block_4": Case(mnist_network, Block(28, 28, 4), "mnist", channels=1, patch=5, positions=49, images=100),
    "cifar_band_4": Case(cifar_network, Band(32, 32, 4), "cifar10", channels=3, patch=5, positions=8, images=100),
    "cifar_column": Case(
        cifar_network,
        Band(32, 32, 4),
        "cifar10",
        channels=3,
        patch=5,
        positions=32,
        images=32,
        columns=Shape((64, 128, 256, 384), (1, 1, 2, 1), 4, "columns", 32, 32, 3, 10),
    ),
    "cifar_block_8": Case(cifar_network, Block(32, 32, 8), "cifar10", channels=3, patch=5, positions=16, images=100),
    "imagenet_band_25": Case(
        imagenet_network, Band(299, 299, 25), "imagenet", channels=3, patch=42, positions=4, images=20
    ),
}


@dataclass
class Measured:
    """One way, on `positions` of the ablations; per image means for all of them.

    Attributes:
        seconds: median over the repetitions.
        ratio: median of plain seconds / seconds within a repetition.
        images_per_second: certified images, that is with all ablations.
        multiply_adds: per image, of convolutions and of the linear layer on the flattened map.
        peak_share: achieved multiply-adds per second over those of a large float32 matrix product; a dense way may
            spend fewer than it is credited with, because kernels skip padding.
        peak_mib: peak memory, the process's on a CPU and the allocated on a GPU.
        difference: largest difference of a probability from the dense way's.
        votes: how many votes at θ differ from the dense way's.
        predictions, certificates: how many images' answers differ from the dense way's (margin certificate); None
            unless all ablations were evaluated.
        near: how many probabilities lie near θ.
    """

    seconds: float
    ratio: float
    images_per_second: float
    multiply_adds: int
    peak_share: float
    peak_mib: float
    difference: float
    votes: int
    predictions: int | None
    certificates: int | None
    near: int


def ways(case: Case, network: nn.Module, indices: Tensor, options: argparse.Namespace) -> dict[str, Callable]:
    """Each way as a function from encoded images (N, 2C, H, W) to logits (N, A', K)."""
    device = torch.device(options.device)
    masks = case.ablation.masks(indices).to(device, torch.float32)
    folded = max(1, options.dense_batch // options.images)
    engine = WindowedNetwork(network, case.ablation, 2 * case.channels)
    as_published = copy.deepcopy(network).to(memory_format=torch.contiguous_format)

    def plain(images: Tensor) -> Tensor:
        return torch.stack([as_published(images * mask) for mask in masks], dim=1)

    def dense(images: Tensor) -> Tensor:
        batches = [(images[:, None] * some[:, None]).flatten(0, 1) for some in masks.split(folded)]
        return torch.cat([network(batch).unflatten(0, (len(images), -1)) for batch in batches], dim=1)

    if case.columns:
        return {"plain": plain} | in_one_pass(case.columns, options)
    found = {"plain": plain, "dense": dense, "windowed": lambda images: engine.logits(images, indices)}
    if options.amp:
        half = WindowedNetwork(copy.deepcopy(network).bfloat16(), case.ablation, 2 * case.channels)
        found["bfloat16"] = lambda images: half.logits(images, indices).float()
    return found


def in_one_pass(shape: Shape, options: argparse.Namespace) -> dict[str, Callable]:
    """The ways of a network that answers for all bands in one pass, with random weights."""
    device = torch.device(options.device)
    network = LinesNetwork(shape).to(device)
    network.fold()

    def column(images: Tensor) -> Tensor:
        return network(images[:, : shape.image_channels])

    def autocast(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return column(images).float()

    return {"column": column} | ({"autocast": autocast} if options.amp else {})


def convolutions(network: nn.Module, images: Tensor) -> int:
    """Multiply-adds of all convolutions of `network` on one image (1, C, H, W)."""
    with FlopCounterMode(display=False) as counter:
        network.eval()(images)
    return counter.get_total_flops() // 2


def multiply_adds(case: Case, network: nn.Module, indices: Tensor) -> dict[str, int]:
    """Per image under the ablations `indices`, for the network as it is, in windows, and in one pass."""
    height, width = case.ablation.height, case.ablation.width
    whole = WindowedNetwork(network, Band(height, width, width), 2 * case.channels)
    if case.columns:
        one_pass = convolutions(LinesNetwork(case.columns), torch.zeros(1, case.channels, height, width))
        full = whole.multiply_adds(torch.tensor([0])) * len(indices)
        return {"plain": full, "column": one_pass, "autocast": one_pass}
    windowed = WindowedNetwork(network, case.ablation, 2 * case.channels).multiply_adds(indices)
    full = whole.multiply_adds(torch.tensor([0])) * len(indices)
    return {"plain": full, "dense": full, "windowed": windowed, "bfloat16": windowed}


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Wall clock of one call, to the end of what it started on the device."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_multiply_adds(device: torch.device) -> Iterator[float]:
    """Multiply-adds per second of a large float32 matrix product, anew each time."""
    side = 2048 if device.type == "cpu" else 8192
    one, other = torch.randn(2, side, side, device=device)
    while True:
        yield side**3 / seconds_of(lambda: one @ other, device)


def peak_memory(function: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    """A call's result, and the most memory (MiB) held during it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return function(), torch.cuda.max_memory_allocated(device) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the highest resident size
    result = function()
    status = Path("/proc/self/status").read_text()
    return result, int(status.split("VmHWM:")[1].split()[0]) / 2**10


def network_and_images(case: Case, options: argparse.Namespace) -> tuple[nn.Module, Tensor]:
    """Random ones, or those of --checkpoint and the test images, evenly spaced; encoded images (N, 2C, H, W)."""
    torch.manual_seed(0)
    network = case.network().to(options.device).eval()
    height, width = case.ablation.height, case.ablation.width
    if not options.checkpoint:
        images = torch.rand(options.images, case.channels, height, width)
        return network, encode(images).to(options.device)
    checkpoint.load_network("checkpoint", checkpoint.find("checkpoint", options.checkpoint), network)
    if case.dataset == "imagenet":
        dataset = PictureFolder("data", options.data, height, normalise_imagenet)
    else:
        dataset = named.load(case.dataset, options.data, train=False)
    chosen = dataset.take(torch.arange(options.images) * len(dataset) // options.images)
    return network, encode(next(chosen.batches(options.images))[0]).to(options.device)


def answers(case: Case, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) predictions and (N,) certificates from probabilities (N, A, K) of all ablations."""
    question = Question(Patch(case.patch, case.patch), ThresholdVote(THRESHOLD), "margin")
    verdicts = Certifier(case.ablation, [question])([(torch.arange(case.ablation.count), probabilities)])[0]
    return verdicts.predicted, verdicts.certified


def compared(case: Case, probabilities: Tensor, dense: Tensor) -> dict[str, float | int | None]:
    """How `probabilities` (N, A', K), and the answers that follow from them, differ from the dense way's."""
    vote = ThresholdVote(THRESHOLD)
    found = {
        "difference": float((probabilities - dense).abs().max()),
        "votes": int((vote(probabilities) != vote(dense)).sum()),
        "near": int(((probabilities - THRESHOLD).abs() < NEAR).sum()),
        "predictions": None,
        "certificates": None,
    }
    if dense.shape[1] == case.ablation.count:
        pairs = zip(answers(case, probabilities), answers(case, dense), strict=True)
        found["predictions"], found["certificates"] = (int((one != other).sum()) for one, other in pairs)
    return found


@torch.inference_mode()
def measure(case: Case, options: argparse.Namespace) -> dict[str, Measured]:
    """Run all ways in turn, `options.repetitions` times."""
    device = torch.device(options.device)
    network, images = network_and_images(case, options)
    count = case.ablation.count
    indices = torch.arange(options.positions) * count // options.positions
    functions = ways(case, network, indices, options)
    first = {name: peak_memory(lambda way=way: way(images), device) for name, way in functions.items()}
    peaks = peak_multiply_adds(device)
    times: dict[str, list[float]] = {name: [] for name in functions}
    peak = []
    for _ in range(options.repetitions):
        peak.append(next(peaks))
        for name, way in functions.items():
            times[name].append(seconds_of(lambda way=way: way(images), device))

    costs = multiply_adds(case, network, indices)
    probabilities = {name: logits.softmax(dim=-1).cpu() for name, (logits, _) in first.items()}
    found = {}
    for name, seconds in times.items():
        typical = statistics.median(seconds)
        found[name] = Measured(
            seconds=typical,
            ratio=statistics.median(p / s for p, s in zip(times["plain"], seconds, strict=True)),
            images_per_second=options.images * options.positions / count / typical,
            multiply_adds=costs[name] * count // options.positions,
            peak_share=statistics.median(
                costs[name] * options.images / s / p for s, p in zip(seconds, peak, strict=True)
            ),
            peak_mib=first[name][1],
            **compared(case, probabilities[name], probabilities["plain" if case.columns else "dense"]),
        )
    return found


def printed(found: dict[str, Measured]) -> str:
    lines = ["way        seconds  ratio  images/s  10⁶ multiply-adds/image  of peak  peak MiB"]
    for name, m in found.items():
        lines.append(
            f"{name:9s} {m.seconds:8.3f} {m.ratio:6.2f} {m.images_per_second:9.2f} {m.multiply_adds / 1e6:24.1f} "
            f"{m.peak_share:7.0%} {m.peak_mib:9.0f}"
        )
    if "column" in found:
        return "\n".join(lines)
    lines.append(f"\nagainst dense, θ = {THRESHOLD}: what differs, and how many probabilities are within {NEAR} of θ")
    lines.append("way        probability   votes  predictions  certificates   near θ")
    for name, m in found.items():
        lines.append(
            f"{name:9s} {m.difference:12.1e} {m.votes:7d} {_or_dash(m.predictions):>12s} "
            f"{_or_dash(m.certificates):>13s} {m.near:8d}"
        )
    return "\n".join(lines)


def _or_dash(count: int | None) -> str:
    return "-" if count is None else str(count)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--images", type=int, help="images per batch [by case]")
    parser.add_argument("--positions", type=int, help="ablations that are timed, evenly spaced [by case]")
    parser.add_argument("--dense_batch", type=int, default=400, help="copies per call of the dense way [400]")
    parser.add_argument("--repetitions", type=int, default=5, help="[5]")
    parser.add_argument("--amp", action="store_true", help="time bfloat16, too")
    parser.add_argument("--checkpoint", metavar="NAME", help="weights and test images instead of random ones")
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="where test images lie [data]")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    options.images = options.images or CASES[options.case].images
    options.positions = min(options.positions or CASES[options.case].positions, CASES[options.case].ablation.count)
    if CASES[options.case].columns and (options.checkpoint or options.positions != CASES[options.case].positions):
        parser.error(f"--case {options.case} times all ablations and random weights: no --positions, no --checkpoint")
    return options


def main() -> None:
    options = parsed()
    found = measure(CASES[options.case], options)
    on_cpu = torch.device(options.device).type == "cpu"
    machine = f"{torch.get_num_threads()} CPU threads" if on_cpu else torch.cuda.get_device_name(options.device)
    about = f"{options.case}: {options.images} images, {options.positions} ablations, {options.repetitions} repetitions"
    print(f"{about}; {machine}, torch {torch.__version__}\n{printed(found)}")
    measured = {
        "settings": {key: str(value) for key, value in vars(options).items()},
        "machine": machine,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "ways": {name: asdict(m) for name, m in found.items()},
    }
    records.write(measured, options.output)


if __name__ == "__main__":
    main()
