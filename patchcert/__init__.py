"""Certified defences against adversarial patches: (de)randomized smoothing and interval bounds.

`INTERFACE` names what users import from here (docs/python.md), `FOR_SCRIPTS` what the scripts of this repository need
besides, each by the module that holds it. A module is loaded when one of its names is asked for, so that
`import patchcert` costs nothing. Modules of the package import from each other directly.
"""

from importlib import import_module

INTERFACE = {
    "patch": ("Patch",),
    "patch_sizes": ("Area", "Share"),
    "ablations.ablation": ("Band", "BandAndRow", "Block", "Row", "encode"),
    "ablations.choices": ("MultiBand", "MultiBlock"),
    "classifiers.masked": ("MaskedClassifier",),
    "classifiers.modules": ("SmoothedClassifier",),
    "classifiers.window_masked": ("WindowMaskedClassifier",),
    "engines.columns": ("LinesNetwork",),
    "engines.plain": ("PlainNetwork",),
    "ablations.hidden_windows": ("HiddenWindows",),
    "ablations.windows": ("WindowPairs",),
    "interface.attacking": ("Attacked", "attack"),
    "interface.certification": ("Certification",),
    "interface.certifying": ("certify",),
    "interface.intervals": ("interval_bounds",),
    "zoo.loading": ("load",),
}

FOR_SCRIPTS = {
    "messages": ("print_side_by_side",),
    "networks": ("mnist_network",),
    "option_values": ("output_file",),
    "progress": ("say",),
    "data.augmentation": ("random_crop", "random_flip"),
    "engines.columns": ("COLUMN", "Shape"),
    "votes.rules": ("ThresholdVote", "TopOneVote"),
    "attacks.undefended": ("undefended",),
    "experiments.setting": (
        "CIFAR_LIKE",
        "IMAGENET",
        "MNIST_LIKE",
        "add_image_size",
        "add_model",
        "add_network",
        "add_windows",
        "class_count",
        "data_name",
    ),
    "experiments.networks": ("add_joint", "base_network", "joint_network", "joint_networks", "masked_network"),
    "experiments.commands": (
        "attack_any",
        "attack_any_masked",
        "attack_pretrained",
        "certify_any",
        "certify_any_masked",
        "certify_pretrained",
        "certify_votes",
        "draw_figures",
        "finetune_pretrained",
        "write_report",
    ),
    "experiments.masking": ("add_saving", "certify_masked", "certify_parts", "masked_certification_parser"),
    "experiments.training": ("train", "train_masked", "train_windows"),
    "experiments.training_options": (
        "add_recipe",
        "masked_training_parser",
        "training_parser",
        "windows_training_parser",
    ),
    "experiments.certifying": (
        "add_threshold",
        "certification_parser",
        "certify_by_votes",
        "certify_randomized",
        "randomized_parser",
    ),
    "experiments.attacking": (
        "add_attack_threshold",
        "attack_in_ball",
        "attack_masked",
        "attack_with_patch",
        "attacked_patch",
        "ball_attack_parser",
        "masked_attack_parser",
        "patch_attack_parser",
    ),
}

__all__ = [name for names in INTERFACE.values() for name in names]

_HOMES = {name: module for part in (INTERFACE, FOR_SCRIPTS) for module, names in part.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module(f"{__name__}.version").VERSION
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
