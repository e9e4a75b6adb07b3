"""What results say, as points of plots: one for each answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from patchcert.patch_sizes import in_words

CERTIFICATES = {"masking": "double masking", "margin": "margin", "exact": "exact"}

SHOWN = ("band_size", "block_size", "bandwidth")
"""Options that say how much an ablated copy shows."""

TELLING = {
    "certificate": "{}",
    "run": "{}",
    "patch": "patch {}",
    "patches": "{} patches",
    "threshold": "θ = {}",
    "numerical_margin": "ν = {}",
    "shown": "s = {}",
}
"""What may tell answers apart, and how a legend says it."""

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
    certificate = CERTIFICATES[answer["certificate"]] if "certificate" in answer else "randomized"
    return Point(
        name,
        certificate,
        answer.get("size_to_certify", answer.get("attack_size")),
        answer.get("patches", 1),
        answer.get("threshold"),
        answer.get("numerical_margin", 0.0),
        _shown(record["config"]),
        1000 * record["seconds"] / answer["total"],
        answer["total"],
        answer["clean_accuracy"],
        answer["certified_accuracy"],
        answer["certified_wrong"],
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
    )


def _shown(config: dict) -> int | None:
    """s, from the options or from what the checkpoint says; a run from saved votes has its options in those."""
    options = config.get("config_of_votes") or config
    about = (options.get("about") or {}).get("run") or {}
    said = options | about.get("ablation", {})
    return next((said[name] for name in SHOWN if said.get(name)), None)


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


def _of_best_threshold(points: Sequence[Point], features: Sequence[str]) -> list[Point]:
    """Of points that agree in `features` the one that certifies most; its θ is then `best`."""
    found = []
    for group in _grouped(points, features).values():
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
        if any(len({getattr(point, name) for point in group}) > 1 for group in _grouped(points, chosen).values()):
            chosen.append(name)
    named = {}
    for values, group in _grouped(points, chosen).items():
        words = [_said(name, value) for name, value in zip(chosen, values, strict=True) if value is not None]
        named[", ".join(words)] = group
    return named


def _said(name: str, value: object) -> str:
    return TELLING[name].format(in_words(value) if name == "patch" else value)


def _grouped(points: Iterable[Point], features: Sequence[str]) -> dict[tuple, list[Point]]:
    groups: dict[tuple, list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(getattr(point, name) for name in features), []).append(point)
    return groups
