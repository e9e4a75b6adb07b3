"""Certified defences against adversarial patches: (de)randomized smoothing and interval bounds.

`PUBLIC` names what scripts and users import from here, by the module that holds it. A module is loaded when one of its
names is asked for, so that `import patchcert` costs nothing. Modules of the package import from each other directly.
"""

from importlib import import_module

PUBLIC = {
    "errors": ("BrokenCertificateError", "UsageError"),
    "networks": ("mnist_network",),
    "option_values": ("output_file", "positive_int"),
    "patch": ("Patch",),
    "progress": ("say",),
    "results": ("print_side_by_side",),
    "data.augmentation": ("random_crop", "random_flip"),
    "data.dataset": ("Dataset",),
    "data.folders": ("PictureFolder", "normalise_imagenet"),
    "smoothing.ablation": (
        "Ablation",
        "Band",
        "BandAndRow",
        "Block",
        "MultiBand",
        "MultiBlock",
        "Row",
        "Whole",
        "encode",
    ),
    "smoothing.columns": ("COLUMN", "LinesNetwork", "Shape"),
    "smoothing.masking": ("DoubleMasking", "MaskedVerdicts"),
    "smoothing.objectives": ("EveryBand", "OneCopy", "WorstPair"),
    "smoothing.voting": ("DenseNetwork", "ThresholdVote", "TopOneVote", "softmax_over"),
    "smoothing.windowed": ("WindowedNetwork",),
    "smoothing.certificate": ("Certifier", "Question", "Verdicts", "predict"),
    "smoothing.randomized": ("randomized_verdicts", "top_one_votes"),
    "smoothing.training": ("Recipe",),
    "attacks.classifier": ("Classifier", "MaskedClassifier", "undefended"),
    "attacks.threats": ("BallThreat", "PatchThreat"),
    "attacks.targets": ("Targets", "look_at"),
    "attacks.ascent": ("Ascent", "Attack"),
    "attacks.searches": ("try_all_places", "try_random_places"),
    "experiments.setting": (
        "CIFAR_LIKE",
        "IMAGENET",
        "MNIST_LIKE",
        "add_image_size",
        "add_model",
        "add_network",
        "class_count",
        "data_name",
    ),
    "experiments.networks": ("base_network",),
    "experiments.masking": ("certify_masked", "masked_certification_parser"),
    "experiments.training": ("add_recipe", "masked_training_parser", "train", "train_masked", "training_parser"),
    "experiments.certifying": (
        "add_threshold",
        "certification_parser",
        "certify",
        "certify_randomized",
        "certify_saved",
        "randomized_parser",
        "votes_parser",
    ),
    "experiments.attacking": (
        "add_attack_threshold",
        "attack_in_ball",
        "attack_masked",
        "attack_with_patch",
        "ball_attack_parser",
        "masked_attack_parser",
        "patch_attack_parser",
    ),
}

_HOMES = {name: module for module, names in PUBLIC.items() for name in names}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
