"""Certify any network against patches, by votes of ablated copies; your own code makes the network.

    python3 certify.py --model package.module:factory --weights FILE --ablation band:4 --size_to_certify 5
    python3 certify.py --model package.module:factory --weights FILE --ablation block:8 --dataset folder --data DIR \\
        --image_size 64 --size_to_certify 1-10 --threshold 0.2,0.3 --certificate exact,masking --test

factory() returns a torch.nn.Module. It maps ablated copies (N, 2C, H, W) to logits (N, K). The channels are (x, 1 − x),
and zeros where pixels are hidden. A network of limited reach has an attribute `limited_reach = True`, and maps images
(N, C, H, W) to the logits (N, A, K) of all copies. To certify anything, the network must have been trained on such
copies (docs/python.md).

An ordinary network for whole images is certified as it is, if it has an attribute `preparation` or is a PlainNetwork.
timm:NAME, torchvision:NAME and hf:FOLDER also name such networks (docs/pretrained.md). Hidden pixels then have one
colour.
"""

from patchcert import certify_any, cli


def main() -> None:
    certify_any(__doc__)


if __name__ == "__main__":
    cli.run(main)
