"""Residual networks for 32 × 32 images with any number of input channels."""

from pytorch_cifar.resnet import MODELS, cifar_resnet

__all__ = ["MODELS", "cifar_resnet"]
