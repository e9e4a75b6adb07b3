"""`certify` on batches from a loader, which it reads once, against the same images all at once."""

import gc
import json
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from patchcert import HiddenWindows, Patch, PlainNetwork, WindowMaskedClassifier, certify, progress
from patchcert.interface.batches import parts_of
from tests.helpers import succeed_in_two_processes
from tests.test_python_interface import CLASSIFIERS as DEFENDED
from tests.test_python_interface import dark_and_bright_images

PATCH = Patch(1, 1)
IMAGES, LABELS = dark_and_bright_images(11), torch.arange(11) % 2


def of_windows(patch):
    """Of black and white pixels in sight the more."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(14, 2))
    network[1].weight.data, network[1].bias.data = torch.tensor([[-1.0], [1.0]]).expand(2, 14), torch.zeros(2)
    plain = PlainNetwork(network.eval(), mean=0.5)
    return WindowMaskedClassifier(plain, HiddenWindows.for_patch(2, 7, patch, 3), batch_size=5)


CLASSIFIERS = {name: DEFENDED[name] for name in ("threshold", "masked scores")} | {"windows": of_windows}


class Stream(IterableDataset):
    """Images without a length, each of which is read once."""

    def __init__(self):
        self.read = 0

    def __iter__(self):
        for image, label in zip(IMAGES, LABELS, strict=True):
            self.read += 1
            yield image, label


def alone():
    return DataLoader(IMAGES, batch_size=4)


BATCHES = {
    "a loader": lambda: DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4),
    "a loader of a stream": lambda: DataLoader(Stream(), batch_size=4),
    "a list": lambda: [(IMAGES[:5], LABELS[:5]), (IMAGES[5:].numpy(), LABELS[5:].numpy())],
    "a generator": lambda: ([IMAGES[i : i + 1], LABELS[i : i + 1]] for i in range(11)),
    "images alone": alone,
    "images alone in a list": lambda: list(IMAGES.split(3)),
}


@pytest.mark.parametrize(
    ("batches", "count"),
    [("a loader", 11), ("images alone", 11), ("a loader of a stream", None), ("a list", 10), ("a generator", None)],
)
def test_a_progress_bar_knows_how_many_images_there_are_where_a_loader_does(batches, count):
    assert {part.expected for part in parts_of(BATCHES[batches](), None, (2, 7))} == {count}


@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_batches_are_certified_as_all_images_are_at_once(name, batches):
    classifier = CLASSIFIERS[name](PATCH)
    expected = certify(classifier, IMAGES, LABELS, PATCH)
    found = certify(classifier, BATCHES[batches](), patches=PATCH)
    for one, other in zip(expected.answers, found.answers, strict=True):
        assert one.predicted.equal(other.predicted) and one.certified.equal(other.certified)
    assert expected.answers[0].certified.any() and not expected.answers[0].certified.all()
    if batches.startswith("images alone"):
        assert found.labels is None
    else:
        assert found.labels.equal(LABELS) and found.certified_accuracy == expected.certified_accuracy


def test_images_are_read_once_and_not_kept():
    stream, kept = Stream(), []

    def batches():
        for images, labels in DataLoader(stream, batch_size=2):
            gc.collect()
            assert sum(batch() is not None for batch in kept) <= 2, "the one before, and the first"
            kept.append(weakref.ref(images.untyped_storage()))
            yield images, labels
            del images

    certify(CLASSIFIERS["threshold"](PATCH), batches(), patches=PATCH)
    assert stream.read == len(IMAGES) and len(kept) == 6


def test_a_bar_is_there_after_two_seconds_and_not_before(monkeypatch):
    shown = []

    def bar(*arguments, **named):
        shown.append((arguments, named))
        return made(*arguments, **named)

    made = progress.tqdm
    monkeypatch.setattr(progress, "tqdm", bar)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    certify(CLASSIFIERS["threshold"](PATCH), BATCHES["a loader"](), patches=PATCH)
    certify(CLASSIFIERS["threshold"](PATCH), BATCHES["a generator"](), patches=PATCH)
    assert [(named["total"], named["delay"]) for _, named in shown] == [(11, 2.0), (None, 2.0)]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([(IMAGES, LABELS), (255 * IMAGES, LABELS)], "batch 2 of images: images have pixels from .* expected"),
        ([(IMAGES, LABELS), (IMAGES[:, :, :1], LABELS)], r"batch 2 of images: images are \(11, 1, 1, 7\), expected"),
        ([(IMAGES, LABELS[:4])], r"batch 1 of images: labels are torch.int64 \(4,\), expected whole numbers \(11,\)"),
        ([(IMAGES, LABELS), (IMAGES, LABELS + 2)], "labels go from 2 to 3, expected 0 to 2"),
        ([(IMAGES, LABELS), IMAGES], "batch 2 of images: expected labels in all batches, or in none"),
        ([(IMAGES, LABELS, LABELS)], r"batch 1 of images: it has 3 entries, expected images, or \(images, labels\)"),
        (iter([{"pixel_values": IMAGES}]), "batch 1 of images: it has a dict, expected images"),
        (iter(["a.png"]), "batch 1 of images: images are a str, expected a tensor"),
        (iter([]), "images a list_iterator of nothing: expected batches of images"),
    ],
)
def test_what_is_no_batch_is_refused_in_one_line(batches, message):
    with pytest.raises(ValueError, match=message) as refused:
        certify(CLASSIFIERS["threshold"](PATCH), batches, patches=PATCH)
    assert "\n" not in str(refused.value)


def test_batches_bring_their_own_labels():
    with pytest.raises(ValueError, match="labels a Tensor: expected None beside batches"):
        certify(CLASSIFIERS["threshold"](PATCH), alone(), LABELS, PATCH)


IN_PROCESSES = """
import json, torch
from patchcert import certify, distributed
from tests import test_batches as own
distributed.start(torch.device("cpu"))
found = certify(own.CLASSIFIERS["masked scores"](own.PATCH), own.BATCHES["a generator"](), patches=own.PATCH)
if distributed.is_first():
    print(json.dumps([found.answers[0].certified.tolist(), found.labels.tolist()]))
ours, mine = own.CLASSIFIERS["masked scores"](own.PATCH), own.CLASSIFIERS["masked scores"](own.PATCH)
mine.network[-1].weight.data += distributed.rank()
other = own.IMAGES.roll(distributed.rank(), 0)
for classifier, images in ((ours, own.IMAGES[distributed.rank() :]), (ours, other), (mine, own.IMAGES)):
    try:
        certify(classifier, iter([images]), patches=own.PATCH)
    except ValueError as error:
        print(error)
distributed.stop()
"""


def test_two_processes_share_out_each_batch(tmp_path):
    (tmp_path / "run.py").write_text(IN_PROCESSES)
    printed = succeed_in_two_processes(str(tmp_path / "run.py"), folder=tmp_path).splitlines()
    alone = certify(CLASSIFIERS["masked scores"](PATCH), IMAGES, LABELS, PATCH)
    (found,) = [json.loads(line) for line in printed if line.startswith("[")]
    assert found == [alone.answers[0].certified.tolist(), LABELS.tolist()]
    assert sum("images of each process: expected the same images in all" in line for line in printed) == 4
    assert sum("classifier of each process: expected the same weights in all" in line for line in printed) == 2
