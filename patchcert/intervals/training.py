"""Training with interval bounds: a step, an epoch, the whole run."""

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcert import checkpoint, distributed, stopping
from patchcert.data import augmentation
from patchcert.data.dataset import Dataset
from patchcert.epochs import keep_log_until, record_epoch, save_inside, say_if_another_program
from patchcert.errors import UsageError
from patchcert.intervals.bounds import certified, robust_loss
from patchcert.intervals.config import Config, Model, require_settings
from patchcert.intervals.guide import Guide
from patchcert.intervals.networks import network_of
from patchcert.intervals.patches import half_products, leading_convolutions
from patchcert.intervals.schedules import epsilon_at, lr_factor, optimizer_of, schedule_end
from patchcert.intervals.training_attacks import ATTACKS, GuidedPlaces
from patchcert.messages import print_finished_model, print_going_on, print_interval_epoch
from patchcert.steps import SAVE_EVERY, Steps, position_in

NATURAL = 1e-6
"""Below this ε training is natural: cross-entropy of the logits."""


class Run:
    """A network in training, and all that changes from step to step.

    Args:
        image_shape: (C, H, W).
        max_memory: bytes that the bounds may take at a time.
        amp: whether convolutions, and the linear layer behind them, may take products in bfloat16.

    Raises:
        UsageError: the config does not fit such images, or has nothing for `amp` to change.
    """

    def __init__(
        self,
        config: Config,
        model: Model,
        image_shape: tuple[int, int, int],
        classes: int,
        max_memory: int,
        amp: bool = False,
    ):
        channels = image_shape[0]
        self.config, self.model, self.training, self.amp = config, model, config.training_params, amp
        self.network = network_of(config, model, image_shape, classes)
        method = self.training.method_params
        if amp and (method.sparse or not leading_convolutions(self.network)):
            why = "is trained against sparse attacks" if method.sparse else "does not begin with a convolution"
            right = f"expected none for {model.model_id}, which {why}: its bounds are always computed in float32"
            raise UsageError("amp", True, right)
        self.attack = ATTACKS[method.attack_type](self.network, method, config.scale, max_memory, amp)
        self.trained = nn.ModuleDict({"network": self.network})
        if isinstance(self.attack, GuidedPlaces):
            self.trained["guide"] = self.attack.guide = Guide(channels, classes, method.base_width)
        self.optimizer = optimizer_of(self.trained.parameters(), self.training)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda epoch: lr_factor(self.training, epoch)
        )

    def state(self, epoch: int, errors: dict[str, float], settings: dict[str, object]) -> dict:
        """A checkpoint after `epoch`; `errors` are robust_err, clean_err and best_robust_err."""
        states = {f"{name}_state_dict": module.state_dict() for name, module in self.trained.items()}
        return errors | {
            "state_dict": states.pop("network_state_dict"),
            "opt_state_dict": self.optimizer.state_dict(),
            "lr_scheduler_dict": self.scheduler.state_dict(),
            "epoch": epoch,
            "settings": settings,
            **states,
        }

    def restore(self, path: Path, settings: dict[str, object]) -> dict:
        """Take over the checkpoint that `--resume` names and return its content.

        Raises:
            UsageError: it is of another network, or was trained with other settings.
        """
        content = checkpoint.load_network("resume", path, self.network, entry="state_dict")
        missing = [key for key in self.state(0, {"best_robust_err": 1.0}, settings) if key not in content]
        if missing:
            raise UsageError("resume", path, f"expected a checkpoint of this config, it has no {missing[0]}")
        require_settings("resume", path, content["settings"], settings)
        checkpoint.require_epoch("resume", path, content, least=-1)
        if type(content["best_robust_err"]) is not float:
            raise UsageError("resume", path, "its best_robust_err is no number")
        for name, module in self.trained.items():
            if name != "network":
                checkpoint.fill("resume", path, module, content, f"{name}_state_dict")
        checkpoint.require_optimizer("resume", path, self.optimizer, content["opt_state_dict"])
        state = content["opt_state_dict"]["state"]
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        self._reach(path, content["lr_scheduler_dict"])
        return content

    def _reach(self, path: Path, scheduled: object) -> None:
        """Set the learning rate to that of the epoch that a scheduler's state, in the checkpoint `path`, is at."""
        epoch = scheduled.get("last_epoch") if isinstance(scheduled, dict) else None
        if type(epoch) is not int or epoch < 0:
            raise UsageError("resume", path, "its state of the learning rate is broken")
        self.scheduler.load_state_dict(self.scheduler.state_dict() | {"last_epoch": epoch, "_step_count": epoch + 1})
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.lr * lr_factor(self.training, epoch)

    def loss(self, images: Tensor, labels: Tensor, epsilon: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss, and for each image (N,) whether it is certified; in natural training none is."""
        if epsilon < NATURAL:
            with half_products(images.device, self.amp):
                logits = self.network(self.config.scale.inputs(images))
            return F.cross_entropy(logits.float(), labels), labels < 0
        worst, beside = self.attack.worst(images, labels, epsilon, noise)
        return robust_loss(worst, labels) + beside, certified(worst, labels)

    def step(
        self, images: Tensor, labels: Tensor, epsilon: float, generator: torch.Generator, parts: int = 1
    ) -> tuple[Tensor, Tensor]:
        """One step of the optimiser on this process's share of a batch, in `parts` whose gradients add up.

        Returns:
            the mean loss and the number of certified images of the share, both without gradients.
        """
        self.optimizer.zero_grad()
        noise = self.attack.noise(images, generator) if epsilon >= NATURAL else images.new_empty(len(images), 0)
        loss = certified_images = torch.zeros((), device=images.device)
        pieces = (tensor.tensor_split(min(parts, len(images))) for tensor in (images, labels, noise))
        for piece_images, piece_labels, piece_noise in zip(*pieces, strict=True):
            mean, is_certified = self.loss(piece_images, piece_labels, epsilon, piece_noise)
            mean = mean * (len(piece_labels) / len(labels))
            mean.backward()
            loss = loss + mean.detach()
            certified_images = certified_images + is_certified.sum()
        for parameter in self.trained.parameters():
            if parameter.grad is not None:
                parameter.grad = distributed.total(parameter.grad) / distributed.world()
        self.optimizer.step()
        return loss, certified_images

    def train_epoch(self, dataset: Dataset, steps: Steps, parts: int) -> dict:
        """What is left of a pass over the data; returns what the log says of the pass, errors as fractions of 1."""
        augmentations = tuple(augmentation.AUGMENTATIONS[name] for name in self.training.augmentations)
        for images, labels in steps.batches(dataset, augmentations):
            epsilon = self.epsilon(steps.epoch, steps.done / steps.total)
            loss, certified_images = self.step(images, labels, epsilon, steps.generator, parts)
            steps.add(loss, certified_images, len(labels), eps=f"{epsilon:.3f}")
        loss, robust = steps.means()
        return {
            "epoch": steps.epoch,
            "epsilon": self.epsilon(steps.epoch, (steps.total - 1) / steps.total),
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": loss,
            "train_robust_err": 1 - robust,
            "train_seconds": steps.seconds(),
        }

    def epsilon(self, epoch: int, progress: float) -> float:
        """ε of a step; natural training has none."""
        return epsilon_at(self.training, epoch, progress) if self.training.method == "robust" else 0.0

    @torch.no_grad()
    def errors(self, dataset: Dataset, steps: Steps) -> dict[str, float]:
        """Robust error at full strength, at the places that training looks at, and clean error of a data set."""
        robust = wrong = torch.zeros((), dtype=torch.int64, device=dataset.labels.device)
        for images, labels in steps.test_batches(dataset):
            noise = self.attack.noise(images, steps.generator)
            worst, _ = self.attack.worst(images, labels, self.training.epsilon, noise)
            robust = robust + (~certified(worst, labels)).sum()
            wrong = wrong + (self.network(self.config.scale.inputs(images)).argmax(dim=1) != labels).sum()
        counts = {"robust_err": robust, "clean_err": wrong}
        return {name: distributed.total(count).item() / len(dataset) for name, count in counts.items()}


def train(
    run: Run,
    train_set: Dataset,
    test_set: Dataset,
    folder: Path,
    seed: int,
    parts: int = 1,
    resume: Path | None = None,
    overwrite: bool = False,
    save_every: float = SAVE_EVERY,
) -> None:
    """Train to the config's last epoch; everything is on the data's device.

    Every process has all data and the same weights throughout; the first one writes and prints.

    After each epoch MODEL_ID.pth in `folder` is the state from which the same call goes on, and MODEL_ID.log has a
    line more; inside an epoch MODEL_ID.pth.partial is, every `save_every` minutes, unless that is 0. Once the ε
    schedule has ended, MODEL_ID_best.pth is the state of the lowest robust error on the test set, which is what the
    published numbers select by. A run that is finished stays as it is. With `overwrite` a new one begins in place of it
    or of another one; what that left goes when the first epoch is over.

    Raises:
        UsageError: `resume`, or what lies in `folder` and may not be overwritten, is of another run; or it stopped
            inside an epoch with another number of processes.
        FloatingPointError: training diverged.
        Stopped: a signal asked for the end; the run is saved.
    """
    device = train_set.labels.device
    run.trained.to(device)
    path, best_path = files(folder, run.model)
    log, settings = path.with_suffix(".log"), settings_of(run, train_set, seed)
    state, source = _begun(run, path, settings, resume, overwrite)
    first, last = state["epoch"] + 1, run.training.epochs - 1
    position = position_in(state, source, device)
    if distributed.is_first() and first > last:
        print_finished_model(path, state["epoch"])
    elif distributed.is_first() and source:
        print_going_on(first, last, source, position)
        say_if_another_program(state, source)
    best = state["best_robust_err"] if source and best_path.exists() else float("inf")

    def save(position: dict) -> None:
        stopped = run.state(steps.epoch - 1, {"best_robust_err": best}, settings) | {"position": position}
        save_inside(stopped, steps, partial_of(path))

    with stopping.after_a_step() as request:
        steps = Steps(run.training.batch_size, seed, device, save, save_every, request)
        for epoch in range(first, last + 1):
            steps.begin(epoch, last, len(train_set), position)
            position = None
            row = run.train_epoch(train_set, steps, parts)
            row |= (errors := run.errors(test_set, steps))
            with warnings.catch_warnings(action="ignore"):  # that no step came before, where they are all over
                run.scheduler.step()
            is_best = epoch >= schedule_end(run.training) and errors["robust_err"] < best
            best = errors["robust_err"] if is_best else best
            if distributed.is_first():
                if epoch == first:
                    _clear(log, first, best_path)
                written = [best_path, path] if is_best else [path]
                record_epoch(row, log, run.state(epoch, errors | {"best_robust_err": best}, settings), written)
                partial_of(path).unlink(missing_ok=True)
                print_interval_epoch(run.model.model_id, run.training.method_params.attack_type, row)


def partial_of(path: Path) -> Path:
    """Where a run that writes `path` after each epoch is saved inside of one."""
    return path.with_name(path.name + ".partial")


def files(folder: Path, model: Model) -> tuple[Path, Path]:
    """Where the last and the best state of a model lie in `folder`."""
    return folder / f"{model.model_id}.pth", folder / f"{model.model_id}_best.pth"


def outcome(run: Run, folder: Path) -> tuple[dict[Path, dict | None], str, int]:
    """Of a run that is over, for `messages.print_networks`: its files, what robust error means, when ε is full."""
    states = {path: checkpoint.read("config", path) if path.exists() else None for path in files(folder, run.model)}
    return states, run.training.method_params.attack_type, schedule_end(run.training)


def settings_of(run: Run, train_set: Dataset, seed: int) -> dict[str, object]:
    """What a run must have in common with one that goes on with its files."""
    settings = {"seed": seed, "data": train_set.fingerprint(), "precision": "bfloat16 (--amp)" if run.amp else None}
    return run.config.settings() | settings


def left_by_earlier(
    run: Run, path: Path, settings: dict[str, object], overwrite: bool = False
) -> tuple[dict, Path] | tuple[None, None]:
    """The state, taken over by `run`, from which an earlier run of these settings can go on or is finished; its file.

    None where there is none, or, with leave to `overwrite`, only what is finished or of another run.

    Raises:
        UsageError: a file is of another run.
    """
    there = [file for file in (path, partial_of(path)) if distributed.from_first(file.exists())]
    left = {file: checkpoint.read("config", file) for file in there}
    own = [file for file in there if not checkpoint.other_setting(left[file].get("settings", {}), settings)]
    last = run.training.epochs - 1
    if overwrite:
        there = own = [file for file in own if left[file]["epoch"] < last]
    farthest = max(own, key=lambda file: _place(left[file]), default=None)
    if farthest is None or left[farthest]["epoch"] != last:  # what is finished does not mind other files
        farthest = next((file for file in there if file not in own), farthest)
    return (_taken_over(run, farthest, settings), farthest) if farthest else (None, None)


def _place(state: dict) -> tuple[int, int]:
    """How far a run has come: its last whole epoch, and steps of the next."""
    return state["epoch"], state["position"]["step"] if "position" in state else 0


def _taken_over(run: Run, file: Path, settings: dict[str, object]) -> dict:
    """The state in `file` of the run's own folder, taken over by `run`.

    Raises:
        UsageError: the file is of another run.
    """
    there, way_out = f"models_path={file.parent}: {file.name}", "--overwrite trains anew"
    try:
        content = run.restore(file, settings)
    except UsageError as error:
        raise UsageError("config", there, f"{error.right}; {way_out}") from error
    epoch, epochs = content["epoch"], run.training.epochs
    if epoch >= epochs:
        right = f"was trained to epoch {epoch}, beyond this run's training_params:epochs={epochs}"
        raise UsageError("config", there, f"{right}; {way_out}")
    return content


def _begun(
    run: Run, path: Path, settings: dict[str, object], resume: Path | None, overwrite: bool
) -> tuple[dict, Path | None]:
    """The state with which `run`, which will write to `path`, begins, and the file that it is from, if there is one.

    Raises:
        UsageError: `resume` or `path` is of another run, or nothing is left to do after `resume`.
    """
    last = run.training.epochs - 1
    resumed = run.restore(resume, settings) if resume else None
    earlier, source = left_by_earlier(run, path, settings, overwrite)
    if earlier and (not resumed or _place(earlier) >= _place(resumed)):
        return earlier, source
    if resumed and resumed["epoch"] >= last:
        raise UsageError("resume", resume, f"expected a checkpoint before epoch {last}, the last")
    return (run.restore(resume, settings), resume) if resume else ({"epoch": -1}, None)


def _clear(log: Path, first: int, best: Path) -> None:
    """Make room for a run of which epoch `first` is the next to be written; the `best` of an earlier run goes."""
    log.parent.mkdir(parents=True, exist_ok=True)
    keep_log_until(log, first - 1)
    if first == 0:
        best.unlink(missing_ok=True)
