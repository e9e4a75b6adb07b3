"""A network for hidden windows and one for bands, trained by their scripts on a few small pictures."""

from pathlib import Path

from tests.helpers import succeed
from tests.test_pictures import write_pictures

WINDOWS = ["--window_size", 8, "--per_side", 3]  # they begin at 0, 4 and 8, and hold patches up to 5 × 5
PICTURES = ["--dataset", "folder", "--data", "small", "--image_size", 16]
TRAIN = [*PICTURES, *WINDOWS, "--lr", 0.02, "--end_epoch", 1, "--easy_epochs", 1, "--batch_size", 3, "--no-amp"]
NAME = "small_windows_lr_0.02_regularization_0.0005_model_pooled_windows_8x3_epoch_1.pth"


def train(folder: Path) -> None:
    """Write pictures into `folder`/small, and the networks NAME and bands.pth into `folder`/checkpoints."""
    for part, count in (("train", 12), ("test", 3)):
        write_pictures(folder / "small" / part, ("cat", "dog", "eel"), count, size=16)
    succeed("train_cifar_windows.py", *TRAIN, folder=folder)
    small = ["--channels", "8,16", "--blocks", "0,0", "--stem", "shared", "--band_stride", 1, "--band_size", 3]
    succeed("train_cifar_band_masked.py", *PICTURES, *small, "--lr", 0.02, "--end_epoch", 3, folder=folder)
    (path,) = (folder / "checkpoints").glob("small_masked_band_*.pth")
    path.rename(folder / "checkpoints" / "bands.pth")
