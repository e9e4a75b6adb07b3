"""Certify a network that nobody prepared: an ordinary classifier of colour images, as it is and after more training.

    pip install . && python3 examples/unprepared_network.py

The network stands for yours: three channels, trained on whole images (scikit-learn's digits, 8 × 8), which it gets
mostly right. It has never seen an image of which all but 2 columns are hidden, so its votes on these prove next
to nothing. A certificate needs a network that was trained on ablated copies; some seconds of that are shown here.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from patchcert import Band, Patch, SmoothedClassifier, certify, encode

ABLATION, PATCH = Band(8, 8, 2), Patch(1, 1)


class HiddenAsGrey(nn.Module):
    """Lets a network of plain images (N, C, H, W) see ablated copies (N, 2C, H, W), grey where pixels are hidden."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, copies: Tensor) -> Tensor:
        x, inverse = copies.chunk(2, dim=1)  # x and 1 − x where pixels are shown, 0 and 0 where they are hidden
        return self.network(x + 0.5 * (1 - x - inverse))


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int, ablated: bool) -> None:
    """Adam on whole images, or on one random ablated copy of each."""
    optimizer = torch.optim.Adam(network.parameters(), 0.002)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64):
            shown = images[chosen]
            if ablated:
                shown = encode(shown) * ABLATION.masks(torch.randint(ABLATION.count, (len(chosen),)))[:, None]
            optimizer.zero_grad()
            nn.functional.cross_entropy(network.train()(shown), labels[chosen]).backward()
            optimizer.step()


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    pictures = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
    images, labels = pictures[:1437], torch.tensor(digits.target[:1437])
    test_images, test_labels = pictures[1437:], torch.tensor(digits.target[1437:])
    yours = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    train(yours, images, labels, epochs=10, ablated=False)
    right = (yours.eval()(test_images).argmax(1) == test_labels).float().mean()
    print(f"your network on whole images: {right:.2%} right, none certified")

    network = HiddenAsGrey(yours)
    smoothed = SmoothedClassifier(network, ABLATION, threshold=0.3)
    print(f"its votes on ablated copies: {certify(smoothed, test_images, test_labels, PATCH)}")
    train(network, images, labels, epochs=15, ablated=True)
    print(f"trained on ablated copies: {certify(smoothed, test_images, test_labels, PATCH)}")


if __name__ == "__main__":
    main()
