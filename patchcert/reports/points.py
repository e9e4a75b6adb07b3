"""What results say, as points of plots: one for each answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from patchcert.patch_sizes import in_words

CERTIFICATES = {"masking": "double masking", "margin": "margin", "exact": "exact"}

SHOWN = ("band_size", "block_size", "bandwidth")
"""Options that say how much an ablated copy shows."""

DATA = {
    "cifar10": "CIFAR-10",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "svhn": "SVHN",
    "imagenet": "ImageNet",
}
"""Data sets, as people call them."""

COPIES = {
    "Band": "bands of columns",
    "Row": "bands of rows",
    "BandAndRow": "bands of columns and rows",
    "Block": "blocks",
    "MultiBand": "several bands",
    "MultiBlock": "several blocks",
    "WindowPairs": "hidden windows of {window_size} × {window_size}",
    "RefinedPairs": "hidden windows of {window_size} × {window_size} and {fine_size} × {fine_size}",
    "BandsAndWindows": "bands and hidden windows of {window_size} × {window_size}",
}
"""What the network is shown, by the name of the kind in files; how much it is shown, `shown` says."""

TELLING = {
    "data": "{}",
    "certificate": "{}",
    "copies": "{}",
    "promise": "{}",
    "run": "{}",
    "patch": "patch {}",
    "patches": "{}",
    "threshold": "θ = {}",
    "numerical_margin": "ν = {}",
    "shown": "s = {}",
}
"""What may tell answers apart, and how a legend says it."""

ALERT = "alert"
"""The goal of a defence with alarms, as results write it."""

PATCHES = {1: "one patch", 2: "two patches"}

MOST_LINES = 7
"""That colours tell apart."""


@dataclass(frozen=True)
class Point:
    """One answer: what was asked, and which shares of the images were classified right, certified, right under attack.

    Attributes:
        run: what the result is called; of networks trained with interval bounds, the model.
        certificate: in words; None where an attack has none.
        patch: as people write it, 5 or 2x8; None of other adversaries.
        threshold: θ; "best" where others were tried on the same images and certify less.
        shown: s, the size of what an ablated copy shows, pixels; None where there is none.
        milliseconds: for each image.
        joined: whether answers for other patches are about the same network.
        data: the data set, in words.
        copies: what the network is shown, in words; None where that is the whole image, or the result does not say.
        goal: what is certified of hidden windows, as results write it; None of other defences.
        confidence: τ of alarms; None for the strict rule.
    """

    run: str
    certificate: str | None
    patch: int | str | None
    patches: int
    threshold: float | str | None
    numerical_margin: float
    shown: int | None
    milliseconds: float
    total: int
    clean: float
    certified: float | None = None
    certified_wrong: int | None = None
    attacked: float | None = None
    joined: bool = True
    data: str | None = None
    copies: str | None = None
    goal: str | None = None
    confidence: float | None = None

    @property
    def promise(self) -> str | None:
        """The goal, in words."""
        if self.goal != ALERT:
            return self.goal and "recovery"
        return "alarms, strict" if self.confidence is None else f"alarms, τ = {self.confidence:g}"


def names_of(paths: Sequence[Path]) -> list[str]:
    """What results are called: by their files, and where two have one name by the folders of these, too."""
    stems = [path.stem for path in paths]
    return [stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, paths, strict=True)]


def points_of(name: str, record: dict) -> list[Point]:
    """The answers in a result that is called `name`; none in a benchmark."""
    if record["kind"] == "evaluate":
        return [_of_model(model, record) for model in record["models"]]
    if record["kind"] == "certify":
        return [_of_answer(name, answer, record) for answer in record["results"]]
    return [_of_attack(name, record)] if record["kind"] == "attack" else []


def _of_answer(name: str, answer: dict, record: dict) -> Point:
    config = _for_size(record["config"], answer.get("size_to_certify"))
    certificate = CERTIFICATES[answer["certificate"]] if "certificate" in answer else "randomized"
    return Point(
        name,
        certificate,
        answer.get("size_to_certify", answer.get("attack_size")),
        answer.get("patches", 1),
        answer.get("threshold"),
        answer.get("numerical_margin", 0.0),
        _shown(config),
        1000 * record["seconds"] / answer["total"],
        answer["total"],
        answer["clean_accuracy"],
        answer["certified_accuracy"],
        answer["certified_wrong"],
        data=_data(config),
        copies="hidden windows" if "windows" in answer else _copies(config),
        goal=answer.get("goal"),
        confidence=answer.get("confidence"),
    )


def _of_attack(name: str, record: dict) -> Point:
    (answer,), config = record["results"], record["config"]
    names = ("certified_accuracy", "certified_accuracy_exact")
    shares = [answer[name] for name in names if answer[name] is not None]
    kind = "double masking" if "numerical_margin" in answer else "exact"
    return Point(
        name,
        kind if shares else None,
        config.get("size_of_attack"),
        1,
        config.get("threshold"),
        answer.get("numerical_margin", 0.0),
        _shown(config),
        1000 * record["seconds"] / answer["total"],
        answer["total"],
        answer["clean_accuracy"],
        max(shares, default=None),
        attacked=answer["attacked_accuracy"],
        data=_data(config),
        copies=_copies(config),
    )


def _of_model(model: dict, record: dict) -> Point:
    attacked = 1 - model["attacked_error"] if "attacked_error" in model else None
    return Point(
        model["model_id"],
        "interval bounds",
        record["evaluated_against"].get("patch"),
        1,
        None,
        0.0,
        None,
        1000 * model["seconds"] / model["total"],
        model["total"],
        1 - model["clean_error"],
        1 - model["certified_error"],
        attacked=attacked,
        joined=False,
        data=_data(record["config"]),
    )


def _for_size(config: dict, size: int | str | None) -> dict:
    """The options of a run as they were for this patch size, of those for which it took another network."""
    return next((config | part for part in config.get("parts", ()) if size in part["size_to_certify"]), config)


def _shown(config: dict) -> int | None:
    """s, from the options or from what the checkpoint says."""
    said = _looked_at(config) | _ablation(config)
    return next((said[name] for name in SHOWN if said.get(name)), None)


def _copies(config: dict) -> str | None:
    ablation = _ablation(config)
    return COPIES[ablation["kind"]].format(**ablation) if ablation.get("kind") in COPIES else None


def _ablation(config: dict) -> dict:
    """What the checkpoint says of the copies."""
    return ((_looked_at(config).get("about") or {}).get("run") or {}).get("ablation", {})


def _data(config: dict) -> str | None:
    options = _looked_at(config)
    name = options.get("experiment", options).get("dataset")
    return f"folder {Path(options['data']).name}" if name == "folder" and options.get("data") else DATA.get(name, name)


def _looked_at(config: dict) -> dict:
    """The options of the run that looked at the images; a run from saved votes has them beside its own."""
    return config.get("config_of_votes") or config


def lines(points: Sequence[Point], x: str) -> dict[str, list[Point]]:
    """The points in groups that differ in `x` alone, in its order, by what tells the groups apart, in words.

    Points of several runs make one line where `x` is a size of the network's. `exact` stands for `margin`, which
    certifies no more, and where groups are too many to be told apart, the best θ for all.
    """
    features = [name for name in TELLING if name != x and not (x == "shown" and name == "run")]
    strongest = _strongest(points)
    groups = _named(strongest, features)
    if len(groups) > MOST_LINES and x != "threshold":
        features.remove("threshold")
        best = _named(_of_best_threshold(strongest, [*features, x]), features)
        groups = {
            ", ".join(filter(None, [name, "best θ" * any(point.threshold == "best" for point in group)])): group
            for name, group in best.items()
        }
    return {name: sorted(group, key=lambda point: getattr(point, x)) for name, group in groups.items()}


def curves(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points in groups that differ in what is promised alone, in the order of τ, by what tells the groups apart."""
    groups = _named(points, [name for name in TELLING if name != "promise"])
    return {name: sorted(group, key=lambda point: point.confidence or 0.0) for name, group in groups.items()}


def _of_best_threshold(points: Sequence[Point], features: Sequence[str]) -> list[Point]:
    """Of points that agree in `features` the one that certifies most; its θ is then `best`."""
    found = []
    for group in grouped(points, features).values():
        best = max(group, key=lambda point: point.certified or 0.0)
        found.append(replace(best, threshold="best") if len(group) > 1 else best)
    return found


def _strongest(points: Sequence[Point]) -> list[Point]:
    """The points less those by the margin where there is one by `exact` that differs in nothing else."""
    asked = ("run", "patch", "patches", "threshold", "numerical_margin")
    exact = {tuple(getattr(p, name) for name in asked) for p in points if p.certificate == "exact"}
    return [p for p in points if p.certificate != "margin" or tuple(getattr(p, name) for name in asked) not in exact]


def _named(points: Sequence[Point], features: Sequence[str]) -> dict[str, list[Point]]:
    chosen: list[str] = []
    for name in features:  # only those that tell apart what earlier ones do not
        if any(len({getattr(point, name) for point in group}) > 1 for group in grouped(points, chosen).values()):
            chosen.append(name)
    named = {}
    for values, group in grouped(points, chosen).items():
        words = [_said(name, value) for name, value in zip(chosen, values, strict=True) if value is not None]
        named[", ".join(words)] = group
    return named


def _said(name: str, value: object) -> str:
    words = {"patch": in_words, "patches": PATCHES.get}.get(name, str)
    return TELLING[name].format(words(value))


def grouped(points: Iterable[Point], features: Sequence[str]) -> dict[tuple, list[Point]]:
    """The points by what they are in these features, in the order in which they come."""
    groups: dict[tuple, list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(getattr(point, name) for name in features), []).append(point)
    return groups
