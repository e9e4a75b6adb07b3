"""Attacks of other people's toolboxes take the modules, and certificates hold.

Skipped where adversarial-robustness-toolbox, torchattacks or foolbox is not installed.
"""

import pytest
import torch
from torch import nn

from patchcert import Band, MaskedClassifier, Patch, SmoothedClassifier, certify

SIZE = 12
ABLATION = Band(SIZE, SIZE, 3)


class Brightness(nn.Module):
    """A base classifier of dark, grey and bright copies."""

    def forward(self, copies):
        x, inverse = (part.mean(dim=(1, 2, 3)) for part in copies.chunk(2, dim=1))
        return 40 * torch.stack([inverse - x, 0.12 - (x - inverse).abs(), x - inverse], dim=1)


@pytest.fixture(scope="module")
def images():
    """(N, 1, H, W): noise around levels from dark to bright."""
    levels = torch.linspace(0.38, 0.62, 30)[:, None, None, None]
    return (levels + 0.1 * torch.randn(30, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


CLASSIFIERS = {
    "votes": lambda patch: SmoothedClassifier(Brightness(), ABLATION, 0.4),
    "masked scores": lambda patch: MaskedClassifier(Brightness(), ABLATION, patch),
}


@pytest.fixture(params=CLASSIFIERS)
def classifier(request):
    return CLASSIFIERS[request.param]


def certified(classifier, images, patch):
    """The predictions, and which of them no such patch can change."""
    (answer,) = certify(classifier, images, torch.zeros(len(images), dtype=torch.int64), patch).answers
    assert 5 < int(answer.certified.sum()) < len(images)
    return answer.predicted, answer.certified


def test_the_adversarial_robustness_toolbox_patches_no_certified_image(classifier, images):
    estimators = pytest.importorskip("art.estimators.classification")
    evasion = pytest.importorskip("art.attacks.evasion")
    patch = Patch(3, 3)
    classifier = classifier(patch)
    predicted, holds = certified(classifier, images, patch)
    shape = {"input_shape": (1, SIZE, SIZE), "nb_classes": 3, "clip_values": (0, 1)}
    soft = estimators.PyTorchClassifier(classifier.soft(), nn.CrossEntropyLoss(), **shape)
    flipped = torch.zeros_like(holds)
    attack = evasion.AdversarialPatchPyTorch(
        soft, rotation_max=0, patch_shape=(1, 3, 3), patch_location=(5, 4), patch_type="square", targeted=False,
        scale_min=0.1, scale_max=1.0, optimizer="pgd", learning_rate=0.2, max_iter=5, batch_size=1, verbose=False,
    )  # fmt: skip
    for number in range(0, len(images), 2):
        image = images[number : number + 1].numpy()
        attack.reset_patch(None)
        attack.generate(x=image, y=predicted[number : number + 1].numpy())
        attacked = torch.from_numpy(attack.apply_patch(image, scale=1.0)).float()
        assert 0 < int((attacked != images[number]).sum()) <= 9
        flipped[number] = classifier(attacked).argmax(1)[0] != predicted[number]
    assert not (flipped & holds).any() and (flipped.any() or isinstance(classifier, MaskedClassifier))
    hard = estimators.PyTorchClassifier(classifier, nn.CrossEntropyLoss(), **shape)
    assert hard.predict(images.numpy()).argmax(1).tolist() == predicted.tolist()


def test_torchattacks_changes_no_certified_image_by_one_pixel(classifier, images):
    torchattacks = pytest.importorskip("torchattacks")
    classifier = classifier(Patch(1, 1))
    predicted, holds = certified(classifier, images, Patch(1, 1))
    attacked = torchattacks.OnePixel(classifier, pixels=1, steps=3, popsize=8, inf_batch=64)(images, predicted)
    assert not ((classifier(attacked).argmax(1) != predicted) & holds).any()
    attacked = torchattacks.PGD(classifier.soft(), eps=0.15, alpha=0.03, steps=8)(images, predicted)
    assert (classifier(attacked).argmax(1) != predicted).sum() > 5


def test_foolbox_follows_the_gradient_of_votes(classifier, images):
    foolbox = pytest.importorskip("foolbox")
    classifier = classifier(Patch(1, 1))
    predicted, _ = certified(classifier, images, Patch(1, 1))
    model = foolbox.PyTorchModel(classifier.eval(), bounds=(0, 1), device="cpu")
    assert foolbox.accuracy(model, images, predicted) == 1
    _, attacked, success = foolbox.attacks.LinfPGD(steps=10)(model, images, predicted, epsilons=0.15)
    assert torch.equal(classifier(attacked).argmax(1) != predicted, success) and int(success.sum()) > 5
