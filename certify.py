"""Certify any network against patches: votes of ablated copies, cast by a network that your own code makes.

    python3 certify.py --model package.module:factory --weights FILE --ablation band:4 --size_to_certify 5
    python3 certify.py --model package.module:factory --weights FILE --ablation block:8 --dataset folder --data DIR \\
        --image_size 64 --size_to_certify 1-10 --threshold 0.2,0.3 --certificate exact,masking --test

factory() makes a torch.nn.Module: ablated copies (N, 2C, H, W), channels (x, 1 − x) and zeros where pixels are hidden,
to logits (N, K). Or one of limited reach, with an attribute `limited_reach = True`: images (N, C, H, W) to the logits
(N, A, K) of all copies. It must have been trained on such copies to certify anything: docs/python.md.
timm:NAME, torchvision:NAME or hf:FOLDER is a network of whole pictures, as it is: docs/pretrained.md.
"""

from patchcert import certify_any, cli


def main() -> None:
    certify_any(__doc__)


if __name__ == "__main__":
    cli.run(main)
