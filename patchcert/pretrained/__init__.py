"""Networks that others trained, and how their pictures are made: of timm, torchvision, transformers, or code."""
