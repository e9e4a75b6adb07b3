"""How base classifiers are trained: recipes."""

import math
from dataclasses import asdict, dataclass

from patchcert.data.augmentation import Augmentation


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the paper's: SGD with momentum, one random ablation per batch (section 4).

    Attributes:
        lr: learning rate; with a warm-up, its peak.
        regularization: weight decay.
        end_epoch: index of the last epoch.
        batch_size: images per step, of all processes together.
        seed: with an epoch's index, fixes all of that epoch's randomness.
        augmentations: applied to each training batch, in this order.
        ablation_per: `batch` shows all images of a batch (of each process's share of it) the same random
            ablation, `sample` each its own.
        amp: matrix products and convolutions in bfloat16.
        warmup: share of the run in which the learning rate rises linearly, before it falls to 0 along a
            cosine; without it the learning rate is constant.
        label_smoothing: share of each label's weight that is spread over all classes.
        average: decay per step of the weight average (EMA) that is evaluated and saved; 0 keeps none.
        filters_lr: learning rate of Muon, which then trains the filters of convolutions; 0 leaves all to SGD.
        filters_regularization: weight decay of Muon.
    """

    lr: float
    regularization: float
    end_epoch: int
    batch_size: int = 128
    seed: int = 0
    augmentations: tuple[Augmentation, ...] = ()
    ablation_per: str = "batch"
    amp: bool = False
    momentum: float = 0.9
    nesterov: bool = False
    warmup: float = 0.0
    label_smoothing: float = 0.0
    average: float = 0.0
    filters_lr: float = 0.0
    filters_regularization: float = 0.0

    def settings(self) -> dict:
        """What must agree for an interrupted run to go on, in types that a checkpoint can hold."""
        settings = asdict(self) | {"augmentations": [augment.__name__ for augment in self.augmentations]}
        if not self.filters_lr:  # as runs of earlier versions have it
            del settings["filters_lr"], settings["filters_regularization"]
        return settings

    def share_of_lr_at(self, epochs: float) -> float:
        """What learning rates are multiplied by after so many epochs, counted from the first of the run."""
        done = epochs / (self.end_epoch + 1)
        if self.warmup == 0:
            return 1.0
        if done < self.warmup:
            return done / self.warmup
        return (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup))) / 2

    def average_decay(self, steps: int) -> float:
        """The decay of the weight average after so many steps: less at first, to forget the random start."""
        return min(self.average, (1 + steps) / (10 + steps))


PAPER = Recipe(lr=0.1, regularization=0.0005, end_epoch=199)

FAST = Recipe(
    lr=0.4,
    regularization=0.0005,
    end_epoch=199,
    batch_size=512,
    ablation_per="sample",
    amp=True,
    nesterov=True,
    warmup=0.1,
    label_smoothing=0.1,
    average=0.999,
)
"""For CIFAR-10 on one recent GPU; `--recipe fast` starts from it."""

MASKED = Recipe(lr=0.1, regularization=0.0005, end_epoch=19, nesterov=True, warmup=0.15, average=0.998)
"""For networks that answer for all bands in one pass."""

WINDOWS = Recipe(
    lr=0.05,
    regularization=0.0005,
    end_epoch=10,
    batch_size=500,
    nesterov=True,
    warmup=0.1,
    label_smoothing=0.1,
    average=0.99,
    filters_lr=0.05,
    filters_regularization=0.1,
)
"""For networks on copies with hidden windows."""

FINETUNE = Recipe(
    lr=0.001, regularization=0.0001, end_epoch=9, batch_size=64, nesterov=True, warmup=0.1, label_smoothing=0.1
)
"""For networks that somebody pretrained: steps are small, so that little of what they know is lost."""

RECIPES = {"paper": PAPER, "fast": FAST, "masked": MASKED, "windows": WINDOWS, "finetune": FINETUNE}
