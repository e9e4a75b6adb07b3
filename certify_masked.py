"""Certify any network against patches, by double masking of its scores of every ablated copy.

    python3 certify_masked.py --model package.module:factory --weights FILE --ablation window_pairs:11x4
    python3 certify_masked.py --model package.module:factory --weights FILE --ablation band:4 --size_to_certify 1-10

factory() returns a torch.nn.Module, as for certify.py. It maps encoded copies (B, 2C, H, W) to logits (B, K). If it has
limited reach, it maps images (N, C, H, W) to the logits (N, A, K) of all copies. PatchCleanser's two rounds give the
answer, from these logits. The answer is certified if every pair of masks gives it. Networks for whole images are named
as for certify.py, too.
"""

from patchcert import certify_any_masked, cli


def main() -> None:
    certify_any_masked(__doc__)


if __name__ == "__main__":
    cli.run(main)
