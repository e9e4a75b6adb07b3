"""Time a patch attack that computes the touched copies alone against one that computes every copy at every step.

    python3 benchmarks/bench_attack.py --checkpoint NAME
    python3 benchmarks/bench_attack.py --checkpoint NAME --randomizations 2 --output bench.json

Both run in this process, one after the other, from the same seed; the ratio of their seconds is the gain.
"""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import records
from patchcert import checkpoint, cli
from patchcert.ablations.ablation import Band
from patchcert.attacks.ascent import LOSSES, Ascent, Attack
from patchcert.attacks.searches import SEARCHES
from patchcert.attacks.targets import look_at
from patchcert.attacks.threats import PatchThreat
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.experiments.attacking import add_attack_threshold, patch_attack_parser
from patchcert.experiments.setting import MNIST_LIKE, class_count, load_images
from patchcert.networks import mnist_network
from patchcert.patch import Patch


def main() -> None:
    parser = patch_attack_parser(__doc__, MNIST_LIKE)
    parser.add_argument("--band_size", type=int, default=4, help="s, columns that an ablated image shows")
    add_attack_threshold(parser)
    parser.set_defaults(steps=50, randomizations=20, limit=100, batch_size=512, size_of_attack=Patch(5, 5))
    options = parser.parse_args()
    network, ablation = mnist_network(classes=class_count(options)), Band(28, 28, options.band_size).to(options.device)
    checkpoint.load_network("checkpoint", checkpoint.find("checkpoint", options.checkpoint), network)
    network.to(options.device).eval().requires_grad_(False)
    dataset = load_images(options, train=False).take(slice(options.limit)).to(options.device)
    classifier = SmoothedClassifier(network, ablation, options.threshold)
    targets = look_at(classifier, dataset, [], options.batch_size).targets()
    ascent = Ascent(LOSSES[options.loss], options.steps, options.step_size, options.momentum)
    record = {"images": len(targets), "config": cli.configuration(options)}
    for name in ("every", "touched"):
        threat = PatchThreat(options.size_of_attack, ablation)
        if name == "every":
            threat.touched = torch.ones_like(threat.touched)
        run = Attack(classifier, threat, ascent, targets, options.seed, options.batch_size)
        started = time.perf_counter()
        SEARCHES[options.locations](run, options.randomizations)
        seconds, flipped = time.perf_counter() - started, int(run.findings.flipped.sum())
        print(f"{name:7s} copies  {seconds:8.1f} s  {flipped} of {len(targets)} images flipped", flush=True)
        record |= {f"{name}_seconds": seconds, f"{name}_flipped": flipped}
    record["ratio"] = record["every_seconds"] / record["touched_seconds"]
    print(f"{record['ratio']:.2f} times as fast")
    records.write(record, options.output)


if __name__ == "__main__":
    cli.run(main)
