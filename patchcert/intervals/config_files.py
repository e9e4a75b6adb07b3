"""From JSON files that extend others, and overrides from the command line, to a config that can work."""

import json
import os
import re
from dataclasses import MISSING, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from patchcert import inputs
from patchcert.data import augmentation, named
from patchcert.errors import UsageError, one_line
from patchcert.intervals.config import Adversary, Config
from patchcert.intervals.places import LEAST_STD

SCHEDULES = ("linear", "exponential")
"""What `schedule_shape` may be."""

ATTACK_TYPES = ("patch-all", "patch-random", "patch-nn", "patch-all-pool", "sparse")

BOUND_TYPES = {"sparse": ("sparse-interval", "sparse-interval-tight")}
"""Of attack types that have a choice; patches have `interval`."""

LARGEST, SMALLEST = 10**9, 1e-30
"""No number in a config may be beyond the one, or nearer to 0 than the other but for 0 itself: float32 has few more."""

MOST_GUIDE, MOST_BYTES = 1024, 1 << 20
"""Channels of a guide, bytes of a config."""

FILE_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
"""What a model_id may be: its files are named after it."""


def load(path: Path, overrides: list[str] = ()) -> Config:
    """The config in `path` with overrides such as `training_params:epochs=1` applied.

    Raises:
        UsageError: a file cannot be read, a key is unknown, missing or given twice, a value cannot work.
    """
    values = _read(path)
    for override in overrides:
        values = _over(values, _override(override))
    config = _fill(Config, _with_adversary(values), str(path), "")
    config = replace(config, models_path=config.models_path.replace("{name}", path.stem))
    _check(config, path)
    return config


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict:
    """The values of a file over those of the file that it `extends`."""
    try:
        files = (*seen, path.resolve())
        problem = inputs.problem(path)
        if problem:
            raise UsageError("config", path, _instead(path, problem))
        values = json.loads(inputs.content(path, MOST_BYTES), object_pairs_hook=_without_duplicates)
    except UsageError:  # is a ValueError, too
        raise
    except (ValueError, RuntimeError) as error:  # RuntimeError: nested too deep, or a link to itself
        raise UsageError("config", path, f"not a config in JSON: {error}") from error
    if not isinstance(values, dict):
        raise UsageError("config", path, "expected an object of keys and values")
    if files[-1] in seen:
        raise UsageError("config", path, "extends itself: " + ", then ".join(file.name for file in files))
    if "extends" not in values:
        return values
    base = values.pop("extends")
    if not isinstance(base, str):
        raise UsageError("config", path, f"extends={json.dumps(base)}: expected the path of a config")
    return _over(_read(path.parent / base, files), values)


def _instead(path: Path, problem: str) -> str:
    there = [file.name for file in path.parent.glob("*.json")] if os.path.isdir(path.parent) else []
    near = get_close_matches(path.name, there, n=3, cutoff=0.4)
    return f"{problem}; {path.parent}/ has {', '.join(near)}" if near else problem


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict:
    values = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {one_line(repr(key))} is there twice")
        values[key] = value
    return values


def _over(base: dict, values: dict) -> dict:
    """`values` over `base`: objects key by key, everything else as a whole."""
    merged = dict(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _over(base[key], value) if both else value
    return merged


def _with_adversary(values: dict) -> dict:
    """The values of a config in which evaluation, too, has an adversary: training's, but for values of its own."""
    training, evaluation = (values.get(section) for section in ("training_params", "eval_params"))
    method = training.get("method_params") if isinstance(training, dict) else None
    if not isinstance(method, dict) or not isinstance(evaluation, dict):
        return values
    adversary = {field.name: method[field.name] for field in fields(Adversary) if field.name in method}
    return values | {"eval_params": _over({"method_params": adversary}, evaluation)}


def _override(override: str) -> dict:
    """`section:key=value` as a config with this key alone; the value is JSON, or else text."""
    path, equals, text = override.partition("=")
    known = _paths(Config)
    if not equals or path not in known:
        near = get_close_matches(path, known, n=3, cutoff=0.3)
        raise UsageError("config", override, f"no such key to override; the nearest are {', '.join(near) or 'none'}")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = text
    for key in reversed(path.split(":")):
        values = {key: values}
    return values


def _paths(kind: type, prefix: str = "") -> list[str]:
    """The keys of the dataclass `kind` and, with colons, of the dataclasses inside of it."""
    found = []
    for field in fields(kind):
        inner = is_dataclass(field.type)
        found += _paths(field.type, f"{prefix}{field.name}:") if inner else [prefix + field.name]
    return found


def _fill(kind: type, values: object, path: str, section: str) -> object:
    """The dataclass `kind` with `values`, whose keys and types must fit its fields."""
    if not isinstance(values, dict):
        raise UsageError("config", path, f"{section.rstrip(':')} must be an object of keys and values")
    known = {field.name: field for field in fields(kind)}
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, n=3, cutoff=0.3)
            raise UsageError("config", path, f"unknown key {section}{key}; the nearest are {', '.join(near) or 'none'}")
    missing = [name for name, field in known.items() if field.default is MISSING and name not in values]
    if missing:
        raise UsageError("config", path, f"the key {section}{missing[0]} is missing")
    return kind(**{key: _value(known[key].type, value, path, section + key) for key, value in values.items()})


def _value(kind: type, value: object, path: str, key: str) -> object:
    """`value` as a field of type `kind` holds it."""
    if kind is tuple or getattr(kind, "__origin__", None) is tuple:
        if not isinstance(value, list):
            raise UsageError("config", path, f"{key}={json.dumps(value)}: expected a list")
        return tuple(_value(kind.__args__[0], item, path, key) for item in value)
    if hasattr(kind, "__dataclass_fields__"):
        return _fill(kind, value, path, key + ":")
    accepted = (int, float) if kind is float else kind
    wrong_type = not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool)
    if wrong_type or (kind in (int, float) and not (value == 0 or SMALLEST <= abs(value) <= LARGEST)):
        reach = f"within ±{LARGEST}"
        numbers = {int: f"a whole number {reach}", float: f"a number {reach}, 0 or no nearer to it than {SMALLEST}"}
        names = numbers | {str: "text", bool: "true or false", dict: "an object"}
        raise UsageError("config", path, f"{key}={json.dumps(value)}: expected {names[kind]}")
    return float(value) if kind is float else value


Check = tuple[object, str, object, str]
"""Whether a value fits, its key, the value, what would be right."""


def _of_adversary(adversary: Adversary, section: str) -> list[Check]:
    bound_types = BOUND_TYPES.get(adversary.attack_type, ("interval",))
    patched = 0 if adversary.sparse else 1
    checks = (
        (adversary.attack_type in ATTACK_TYPES, "attack_type", ", ".join(ATTACK_TYPES)),
        (adversary.bound_type in bound_types, "bound_type", " or ".join(bound_types)),
        (adversary.patch_w >= patched, "patch_w", "at least 1"),
        (adversary.patch_l >= patched, "patch_l", "at least 1"),
        (adversary.k >= 1 - patched, "k", "at least 1"),
    )
    return [(fits, f"{section}:method_params:{key}", getattr(adversary, key), right) for fits, key, right in checks]


def _check(config: Config, path: Path) -> None:
    """Raise UsageError for values that no run can work with."""
    training, method, evaluation = config.training_params, config.training_params.method_params, config.eval_params
    drawn = {"patch-random": 1, "patch-nn": 1}.get(method.attack_type, 0)
    pooled = method.attack_type == "patch-all-pool"
    ids = [model.model_id for model in config.models]
    files_differ = len({model_id + end for model_id in ids for end in ("", "_best")}) == 2 * len(ids)
    augmentations, known = list(training.augmentations), list(augmentation.AUGMENTATIONS)
    attack = evaluation.method_params
    for fits, key, value, right in (
        (config.dataset in named.NAMES, "dataset", config.dataset, ", ".join(named.NAMES)),
        *_of_adversary(method, "training_params"),
        *_of_adversary(attack, "eval_params"),
        (training.method in ("robust", "natural"), "training_params:method", training.method, "robust or natural"),
        (evaluation.method in ("robust", "adv"), "eval_params:method", evaluation.method, "robust or adv"),
        (not attack.sparse or evaluation.method == "robust", "eval_params:method", evaluation.method, "robust"),
        (evaluation.epsilon == 1 or evaluation.method != "adv", "eval_params:epsilon", evaluation.epsilon, "1 for adv"),
        (attack.random_start, "random_start", "false", "true: every attack begins with a random patch"),
        (training.optimizer in ("adam", "sgd"), "optimizer", training.optimizer, "adam or sgd"),
        (method.patch_count >= drawn, "patch_count", method.patch_count, "at least 1"),
        (all(g >= 1 for g in method.neighbor), "neighbor", list(method.neighbor), "numbers of at least 1"),
        (method.neighbor or not pooled, "neighbor", "[]", "numbers, as patch-all-pool merges places"),
        (method.T >= 0, "T", method.T, "at least 0"),
        (method.attack_type != "patch-nn" or method.base_width >= 1, "base_width", method.base_width, "at least 1"),
        (method.base_width <= MOST_GUIDE, "base_width", method.base_width, f"at most {MOST_GUIDE}"),
        (training.epochs >= 1, "epochs", training.epochs, "at least 1"),
        (training.batch_size >= 1, "batch_size", training.batch_size, "at least 1"),
        (evaluation.batch_size >= 1, "eval_params:batch_size", evaluation.batch_size, "at least 1"),
        (training.lr > 0, "lr", training.lr, "above 0"),
        (training.weight_decay >= 0, "weight_decay", training.weight_decay, "at least 0"),
        (0 < training.lr_decay_factor <= 1, "lr_decay_factor", training.lr_decay_factor, "above 0 and up to 1"),
        (training.lr_decay_step >= 1, "lr_decay_step", training.lr_decay_step, "at least 1"),
        (training.schedule_start >= 0, "schedule_start", training.schedule_start, "at least 0"),
        (training.schedule_length >= 1, "schedule_length", training.schedule_length, "at least 1"),
        (training.schedule_shape in SCHEDULES, "schedule_shape", training.schedule_shape, " or ".join(SCHEDULES)),
        (0 <= training.starting_epsilon <= 1, "starting_epsilon", training.starting_epsilon, "from 0 to 1"),
        (
            training.starting_epsilon > 0 or training.schedule_shape == "linear",
            "starting_epsilon",
            training.starting_epsilon,
            "above 0, as an exponential schedule multiplies it",
        ),
        (0 <= training.epsilon <= 1, "training_params:epsilon", training.epsilon, "from 0 to 1"),
        (0 <= evaluation.epsilon <= 1, "eval_params:epsilon", evaluation.epsilon, "from 0 to 1"),
        (attack.steps >= 1, "steps", attack.steps, "at least 1"),
        (attack.random_mask_count >= 1, "random_mask_count", attack.random_mask_count, "at least 1"),
        (attack.step_size > 0, "step_size", attack.step_size, "above 0"),
        (attack.sample_limit >= 1, "sample_limit", attack.sample_limit, "at least 1"),
        (set(augmentations) <= set(known), "augmentations", augmentations, ", ".join(known)),
        (len(ids) >= 1, "models", "[]", "at least one model"),
        (all(map(FILE_NAME.fullmatch, ids)), "models", ", ".join(ids), "of each 1 to 100 letters, digits, _, . and -"),
        (files_differ, "models", ", ".join(ids), "a model_id of its own for each, none of them another's with _best"),
        (len(config.mean) == len(config.std), "std", list(config.std), "as many numbers as mean has"),
        (all(s >= LEAST_STD for s in config.std), "std", list(config.std), f"numbers of at least {LEAST_STD}"),
    ):
        if not fits:
            raise UsageError("config", path, f"{key}={value}: expected {right}")
