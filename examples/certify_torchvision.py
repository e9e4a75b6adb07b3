"""Certify a torchvision network on tensors of CIFAR-10's shape.

    pip install . && python3 examples/certify_torchvision.py

Ten lines, with weights and images that are random: nothing worth having comes out. docs/python.md says how to train.
"""

import torch
from torchvision.models import resnet18

from patchcert import Band, Patch, SmoothedClassifier, certify

network = resnet18(num_classes=10)
network.conv1 = torch.nn.Conv2d(6, 64, 3, padding=1)  # channels (x, 1 − x)
smoothed = SmoothedClassifier(network, Band(32, 32, 4), threshold=0.3)
images, labels = torch.rand(2, 3, 32, 32), torch.randint(10, (2,))
result = certify(smoothed, images, labels, patches=[Patch(5, 5), Patch(2, 8)], certificate="exact")
print(result)
