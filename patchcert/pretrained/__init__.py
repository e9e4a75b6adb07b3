"""Networks that others trained, and how their images are made: of timm, torchvision, transformers, or code."""
