"""Write the tables of results in README.md and docs/*.md, and what is known of networks that ship, from docs/results.

    python3 benchmarks/readme_tables.py

A table stands between the lines <!-- table: NAME --> and <!-- end of table -->; tests fail where one differs. Below are
what others have published, and how long those trainings took whose logs are not kept.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
MODELS = ROOT / "patchcert" / "zoo" / "models.json"

MNIST_PUBLISHED = {2: "91.51 / 98.55 (interval bounds)", 5: "61.85 / 93.81 (interval bounds)"}
"""Of MNIST: certified / clean, %, by the side of the patch. Chiang et al., ICLR 2020."""

CIFAR_PUBLISHED = {5: "57.6 / 83.8 (votes of ResNet-18), 60 / 86 (BagCert)"}
"""The same of CIFAR-10. Levine and Feizi, NeurIPS 2020; Metzen and Yatsura, ICLR 2021."""

CIFAR_TRAININGS = {
    "first": "every band by itself",
    "second": "then the worst pair of masks",
}
"""By the end of the name of their result: what was trained, one after the other."""

WIDTHS = (3, 4, 5, 6, 8, 10)
"""Columns of bands that were compared on CIFAR-10."""

INTERVAL_BOUNDS = {
    "mnist_p22": ("`mnist_robtrain_p22_all`", "91.51 %", "98.55 %", "118 min"),
    "mnist_p55": ("`mnist_robtrain_p55_all`", "61.85 %", "93.81 %", "131 min"),
    "mnist_k4": ("`mnist_robtrain_k4_sparse`", "90.70 %", "97.20 %", "3 min"),
    "mnist_k10": ("`mnist_robtrain_k10_sparse`", "75.60 %", "94.64 %", "3 min"),
    "mnist_k10_decay_20": ("the same, `lr_decay_step=20`", "75.60 %", "94.64 %", "3 min"),
    "cifar_k4": ("`cifar_robtrain_k4_sparse`", "32.70 %", "49.82 %", "17 min"),
    "cifar_k10": ("`cifar_robtrain_k10_sparse`", "28.21 %", "44.34 %", "17 min"),
}
"""By the name of the result: config, certified and clean as published, minutes of training here."""

CERTIFYING = {
    "mnist_band_4": "MNIST network, band 4, batches of 100",
    "cifar_band_4": "CIFAR-10 ResNet-18, band 4",
    "cifar_block_8": "CIFAR-10 ResNet-18, block 8",
    "imagenet_band_25": "ImageNet ResNet-50, band 25",
}

BREAKING = {
    "kills": "SIGKILL, SIGTERM and SIGINT at random times, and SIGKILL inside files, in trainings of every kind",
    "disk": "disks full, read-only, removed or replaced while scripts write; writers and holders of locks killed",
    "hostile files": "files of fifteen kinds, damaged or made to do harm",
    "processes": "one of two processes dies or stops while they certify or attack",
    "reproducible": "images and questions answered again, with other threads, processes and engines",
}

Table = list[list[str]]
"""Rows of cells, the first one the heading."""


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def square(side: int) -> str:
    return f"{side} × {side}"


def networks() -> Table:
    """What ships and was counted: certified / clean of two sizes of patch, and how long an image took."""
    sizes = (2, 5)
    rows = [["`patchcert.load(…)`", "defence", *map(square, sizes), "seconds", "measured on"]]
    for name, model in json.loads(MODELS.read_text()).items():
        variants = [variant for variant in model["variants"] if (RESULTS / variant["results"]).exists()]
        records = [(read(Path(variant["results"]).stem), variant.get("threshold")) for variant in variants]
        if records:
            found = dict(counts for record in records for counts in headline(*record))
            images = "; ".join(dict.fromkeys(counted_on(record) for record, _ in records))
            cells = [certified_and_clean(found[size]) if size in found else "" for size in sizes]
            seconds = (f"{record['seconds'] / record['results'][0]['total']:.2g}" for record, _ in records)
            rows.append([f'`"{name}"`', model["defence"], *cells, " and ".join(seconds), images])
    return rows


def mnist_masked() -> Table:
    bands, windows, larger = map(read, ("mnist_masked_band", "mnist_joint_test_quarter", "mnist_joint_8x6_test"))
    columns = {
        "bands, all 10,000": of_all(bands),
        "bands, test half": dict(headline(bands)),
        "bands and windows, test half (1 × 1 and 2 × 2: 1,250 images of it)": of_all(windows) | of_all(larger),
    }
    return by_size(columns, MNIST_PUBLISHED)


def cifar_masked() -> Table:
    bands = read("cifar_masked_band")
    columns = {
        "bands, all 10,000": of_all(bands),
        "bands, test half": dict(headline(bands)),
        "bands and windows, test half": of_all(read("cifar_joint_test")),
    }
    return by_size(columns, CIFAR_PUBLISHED)


def of_all(record: dict) -> dict[int, dict]:
    """By the side of the patch: what was counted on all images of a run."""
    return {answer["size_to_certify"]: answer for answer in record["results"]}


def by_size(columns: dict[str, dict[int, dict]], published: dict[int, str]) -> Table:
    """Certified / clean for every size of patch; some classifiers hold small ones only."""
    rows = [["patch", *columns, "published"]]
    for side in next(iter(columns.values())):
        cells = [certified_and_clean(counts[side], 2) if side in counts else "" for counts in columns.values()]
        rows.append([square(side), *cells, published.get(side, "")])
    return rows


def pretrained() -> Table:
    """Networks of others: certified / clean by the size of the patch, by fewer windows, and for a larger network."""
    results = {
        "Lite0, 1 %": "imagenet_lite0_1",
        "Lite0, 2 %": "imagenet_lite0_2",
        "Lite0, 3 %": "imagenet_lite0_3",
        "Lite0, 1 %, 3 × 3 windows": "imagenet_lite0_1_k3",
        "Lite0, 2 %, 3 × 3 windows": "imagenet_lite0_2_k3",
        "Lite0, 3 %, 3 × 3 windows": "imagenet_lite0_3_k3",
        "Lite2, 2 %": "imagenet_lite2_2",
    }
    found = [read(name)["results"] for name in results.values()]
    counts = [f"{heading}, {answers[0]['total']} images" for heading, answers in zip(results, found, strict=True)]
    rows = [["the defence answers", *counts]]
    for answers in zip(*found, strict=True):
        goal, confidence = answers[0]["goal"], answers[0]["confidence"]
        rule = "strict" if confidence is None else f"τ = {confidence:g}"
        promise = "with a class" if goal == "recover" else f"with a class or an alarm, {rule}"
        rows.append([promise, *(certified_and_clean(answer, digits_of(answer)) for answer in answers)])
    return rows


def cifar_widths() -> Table:
    """By how many columns a band has: certified / clean, five sizes of patch."""
    found = {width: read(f"cifar_width_{width}")["results"] for width in WIDTHS}
    rows = [["s", *(square(answer["size_to_certify"]) for answer in found[WIDTHS[0]])]]
    for width, answers in found.items():
        rows.append([str(width), *map(certified_and_clean, answers)])
    return rows


def cifar_ideas() -> Table:
    """Two patches, certified / clean."""
    rows = [["training", "certificate", "2 × 2", "5 × 5"]]
    for name, training in CIFAR_TRAININGS.items():
        found = read(f"ideas_cifar_{name}")["rows"]
        for idea in dict.fromkeys(row["idea"] for row in found):
            rows.append([training, idea, *(certified_and_clean(row) for row in found if row["idea"] == idea)])
    return rows


def digits_of(answer: dict) -> int:
    """How many digits of a percentage are worth showing."""
    return int(answer["total"] > 100)


def certified_and_clean(answer: dict, digits: int = 1) -> str:
    return " / ".join(f"{100 * answer[f'{measure}_accuracy']:.{digits}f}" for measure in ("certified", "clean"))


def mnist_smoothing() -> Table:
    answers = {(a["size_to_certify"], a["threshold"], a["certificate"]): a for a in read("mnist_band_4")["results"]}
    rows = [["patch", "θ", "clean", "certified (margin)", "certified (exact)"]]
    for side, threshold in dict.fromkeys((side, threshold) for side, threshold, _ in answers):
        margin, exact = (answers[side, threshold, kind] for kind in ("margin", "exact"))
        certified = [percent(answer["certified_accuracy"]) for answer in (margin, exact)]
        rows.append([square(side), str(threshold), percent(margin["clean_accuracy"]), *certified])
    return rows


def mnist_attacks() -> Table:
    rows = [["", "patch", "clean", "attacked", "certified"]]
    for side in (2, 5):
        for what, name in (("undefended", "baseline"), ("smoothed", "band")):
            found = read(f"attack_mnist_{name}_{side}")
            certified = percent(found["certified_accuracy"], 0) if name == "band" else "none"
            shares = [percent(found[f"{measure}_accuracy"], 0) for measure in ("clean", "attacked")]
            rows.append([what, square(side), *shares, certified])
    return rows


def interval_bounds() -> Table:
    here_and_there = ["certified, published", "certified, here", "tight", "clean, published", "clean, here"]
    rows = [["config", *here_and_there, "training"]]
    for name, (config, certified, clean, minutes) in INTERVAL_BOUNDS.items():
        (model,) = read(f"interval_{name}")["models"]
        tight = ""
        if (RESULTS / f"interval_{name}_tight.json").exists():
            tight = percent(1 - read(f"interval_{name}_tight")["models"][0]["certified_error"])
        here = [percent(1 - model[f"{error}_error"]) for error in ("certified", "clean")]
        rows.append([config, certified, here[0], tight, clean, here[1], minutes])
    return rows


def speed() -> Table:
    rows = [["", "float32", "bfloat16 (`--amp`)"]]
    for case, what in CERTIFYING.items():
        ways = read(f"bench_certify_{case}")["ways"]
        rows.append([f"certifying, {what}", *(ratio(ways[name]) for name in ("windowed", "bfloat16"))])
    ways = read("bench_certify_cifar_column")["ways"]
    column = "column network for band 4 (509 million multiply-adds) against the ResNet-18 loop"
    rows.append([f"certifying, CIFAR-10 {column}", ratio(ways["column"]), ratio(ways["autocast"])])
    masking = "masking CIFAR-10's bands and windows, given their scores, against all pairs of places"
    rows.append([masking, ratio(read("bench_masking")), ""])
    pairs = "pairs of 11 × 11 windows first, 9 × 9 where they are unsure, against all of 9 × 9 (another classifier)"
    rows.append([pairs, ratio(read("bench_pairs")), ""])
    rows.append(["attacking 100 MNIST images, 5 × 5", ratio(read("bench_attack")), ""])
    bounds = read("bench_intervals")
    both = f"{ratio(bounds['train_mlp_p22'])}, {ratio(bounds['train_mlp_p55'])}"
    rows.append(["interval bounds, training step, MNIST MLP, 2 × 2 and 5 × 5", both, ""])
    for case, what in (("p55_rand20", "5 × 5, 20 random places"), ("p22_guide20", "2 × 2, 20 guided places")):
        both = (ratio(bounds[f"train_cnn5_{case}{way}"]) for way in ("", "_amp"))
        rows.append([f"interval bounds, training step, 5-layer CIFAR-10 network, {what}", *both])
    what = "interval bounds, evaluating the 5-layer CIFAR-10 network at 5 × 5"
    rows.append([what, ratio(bounds["evaluate_cnn5_p55"]), ""])
    return rows


def breaking() -> Table:
    rows = read("break_it")["rows"]
    table = [["attempts", "tried", "lost"]]
    for kind, what in BREAKING.items():
        of_kind = [row for row in rows if row["kind"] == kind]
        table.append([what, *(str(sum(row[count] for row in of_kind)) for count in ("tried", "lost"))])
    return table


def ratio(measured: dict) -> str:
    return f"{measured['ratio']:#.3g}"


TABLES: dict[str, Callable[[], Table]] = {
    table.__name__: table
    for table in (
        networks,
        pretrained,
        mnist_masked,
        cifar_masked,
        cifar_ideas,
        cifar_widths,
        mnist_smoothing,
        mnist_attacks,
        interval_bounds,
        speed,
        breaking,
    )
}


def filled(text: str) -> str:
    """A document, with its tables as they follow from docs/results."""

    def written(match: re.Match) -> str:
        heading, *rows = TABLES[match["name"]]()
        lines = ["| " + " | ".join(cells) + " |" for cells in (heading, *rows)]
        lines.insert(1, "|" + "---|" * len(heading))
        return "\n".join([match["begin"], *lines, match["end"]])

    marked = r"^(?P<begin><!-- table: (?P<name>\w+) -->)$.*?^(?P<end><!-- end of table -->)$"
    return re.sub(marked, written, text, flags=re.MULTILINE | re.DOTALL)


def documents() -> list[Path]:
    """Those that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def counted(models: str) -> str:
    """The text of models.json, its numbers as they follow from docs/results; none where the file is not there."""

    def written(match: re.Match) -> str:
        if not (RESULTS / f"{match['name']}.json").exists():
            return f'{match["begin"]}"counted_on": null, "counted": []'
        record, threshold = read(match["name"]), match["threshold"]
        keys = {"clean": "clean_accuracy", "certified": "certified_accuracy"}
        answers = headline(record, float(threshold) if threshold else None)
        counted = [{"patch": side} | {name: one[key] for name, key in keys.items()} for side, one in answers]
        lines = ",\n".join(f"        {json.dumps(row)}" for row in counted)
        return f'{match["begin"]}"counted_on": "{counted_on(record)}", "counted": [\n{lines}\n      ]'

    begin = r'(?P<begin>(?:"threshold": (?P<threshold>[0-9.]+), )?"results": "(?P<name>\w+)\.json", )'
    return re.sub(begin + r'"counted_on": (?:null|"[^"]*"), "counted": \[[^]]*\]', written, models)


def headline(record: dict, threshold: float | None = None) -> list[tuple[int, dict]]:
    """By the side of the patch: what was counted on images by which nothing was chosen, where that is known.

    Args:
        threshold: θ, of votes, which are counted by the exact certificate; None of double masking.
    """
    answers = zip(record["results"], record.get("test_half", record["results"]), strict=True)
    wanted = (threshold, "masking" if threshold is None else "exact")
    return [
        (asked["size_to_certify"], counted)
        for asked, counted in answers
        if (asked.get("threshold"), asked["certificate"]) == wanted
    ]


def counted_on(record: dict) -> str:
    """Which images `headline` is about."""
    config, total = record["config"], record["results"][0]["total"]
    whole = config.get("skip", 1) == 1 and config.get("limit") is None
    part = "the test half" if whole else f"{total:,} images of the test half"
    chosen = part if config["test"] else "all test images"
    pictures = {"original": ", original images", "copies": ", JPEG copies"}.get(config.get("pictures"), "")
    return ("the test half" if "test_half" in record else chosen) + pictures


def main() -> None:
    for file, anew in (*((document, filled) for document in documents()), (MODELS, counted)):
        before = file.read_text()
        after = anew(before)
        if after != before:
            file.write_text(after)
            print(f"{file.name}: written anew")


if __name__ == "__main__":
    main()
