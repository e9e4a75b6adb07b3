"""What the config of an interval experiment says, and which parts of it a checkpoint must agree with."""

from dataclasses import asdict, dataclass

from patchcert import checkpoint
from patchcert.errors import UsageError
from patchcert.intervals.places import Scale
from patchcert.patch import Patch


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """Who may change what, in training and in evaluation: a patch anywhere, or any k inputs.

    Attributes:
        attack_type: `sparse`, or a patch, by which of its places training looks at.
        patch_w, patch_l: rows and columns of the patch.
        k: inputs that a sparse attack may change.
    """

    attack_type: str
    bound_type: str
    patch_w: int = 0
    patch_l: int = 0
    k: int = 0

    @property
    def sparse(self) -> bool:
        return self.attack_type == "sparse"

    @property
    def patch(self) -> Patch:
        return Patch(self.patch_w, self.patch_l)

    def __str__(self) -> str:
        if self.sparse:
            return f"any {self.k} inputs, by {self.bound_type} bounds"
        return f"a patch of {self.patch_w} × {self.patch_l} pixels anywhere"


@dataclass(frozen=True, kw_only=True)
class Method(Adversary):
    """`training_params:method_params`: the adversary, and which places training looks at.

    Attributes:
        patch_count: random places of an image and step; for patch-nn, of each class.
        neighbor: g_i for patch-all-pool, see `places.pooled_corners`.
        base_width, T: of patch-nn, see `guide`.
    """

    patch_count: int = 0
    neighbor: tuple[int, ...] = ()
    base_width: int = 0
    T: float = 1.0


@dataclass(frozen=True)
class Training:
    """`training_params`; epochs are counted from 0.

    Attributes:
        schedule_start, schedule_length: ε is 0 before the first and grows for the second, epochs.
        schedule_shape: linear, or exponential: then ε grows by the same factor in each epoch.
        lr_decay_step, lr_decay_factor: epochs between decays and the factor, from the end of the ε schedule on.
        augmentations: names in `augmentation.AUGMENTATIONS`.
    """

    method: str
    method_params: Method
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    lr_decay_step: int
    lr_decay_factor: float
    starting_epsilon: float
    epsilon: float
    schedule_start: int
    schedule_length: int
    schedule_shape: str = "linear"
    augmentations: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EvaluationMethod(Adversary):
    """`eval_params:method_params`: the adversary, training's where not said otherwise, and how `method: adv` attacks.

    The attack is PGD on patches at random places; certificates cover every place.

    Attributes:
        random_mask_count: places for each image.
        sample_limit: images that are looked at, the first of the test set.
    """

    steps: int
    random_mask_count: int
    step_size: float
    random_start: bool
    sample_limit: int


@dataclass(frozen=True)
class Evaluation:
    """`eval_params`."""

    method: str
    epsilon: float
    batch_size: int
    method_params: EvaluationMethod

    def against(self) -> dict:
        """What `--output` says of the adversary."""
        method = self.method_params
        size = {"k": method.k, "bound_type": method.bound_type} if method.sparse else {"patch": method.patch.size}
        return size | {"epsilon": self.epsilon}


@dataclass(frozen=True)
class Model:
    """An entry of `models`."""

    model_id: str
    model_class: str
    model_params: dict


@dataclass(frozen=True)
class Config:
    """An experiment: data, networks, and how they are trained and evaluated.

    Attributes:
        mean, std: per channel, what the network's inputs are normalised by.
        models_path: folder of the model files; in a file, `{name}` stands for the file's name.
    """

    dataset: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    models_path: str
    models: tuple[Model, ...]
    training_params: Training
    eval_params: Evaluation

    @property
    def scale(self) -> Scale:
        return Scale(self.mean, self.std)

    @property
    def evaluated_against(self) -> str:
        """In words: the adversary of evaluation, and that of training where it is another one."""
        here, trained = str(self.eval_params.method_params), str(self.training_params.method_params)
        return f"{here}, ε = {self.eval_params.epsilon:g}" + (f"; trained against {trained}" if trained != here else "")

    def settings(self) -> dict[str, object]:
        """What a run and the checkpoint that it goes on from must have in common; only epochs may become more."""
        used = {key: getattr(self, key) for key in ("dataset", "mean", "std")}
        training = asdict(self.training_params)
        method = {f"training_params:method_params:{key}": value for key, value in training.pop("method_params").items()}
        del training["epochs"]
        if training["schedule_shape"] == "linear":  # checkpoints from before there were others do not say so
            del training["schedule_shape"]
        return used | {f"training_params:{key}": value for key, value in training.items()} | method

    def chosen(self, subset: list[int] | None) -> list[Model]:
        """The models that `--model_subset` picks, by default all."""
        for index in subset or ():
            if not 0 <= index < len(self.models):
                ids = ", ".join(f"{i} {model.model_id}" for i, model in enumerate(self.models))
                raise UsageError("model_subset", index, f"expected some of: {ids}")
        if subset is not None and (not subset or len(set(subset)) < len(subset)):
            raise UsageError("model_subset", " ".join(map(str, subset)), "expected at least one number, none twice")
        return [self.models[index] for index in subset or range(len(self.models))]


def require_settings(option: str, value: object, found: object, wanted: dict[str, object]) -> None:
    """Raise UsageError, about `--option value`, unless the settings of a checkpoint are the `wanted` ones."""
    found = found if isinstance(found, dict) else {}
    key = checkpoint.other_setting(found, wanted)
    if key:
        expected = "this run has none" if wanted[key] is None else f"expected the {wanted[key]} of this run"
        right = f"was trained with {key}={found.get(key)}, {expected}"
        raise UsageError(option, value, right)
