"""Attack any network with patches: double masking of what it says of every ablated copy.

    python3 attack_masked.py --model package.module:factory --weights FILE --ablation band:4 --size_of_attack 5

The network is that of certify_masked.py. Projected gradient ascent with sign steps, many restarts with the patch at a
new place (Levine and Feizi, NeurIPS 2020), judged by the two-round prediction. Stops with exit code 3 if an image flips
whose answer is certified.
"""

from patchcert import ANY, add_any_network, any_network, attack_masked, cli, masked_attack_parser


def main() -> None:
    parser = masked_attack_parser(__doc__, ANY)
    add_any_network(parser)
    options = parser.parse_args()
    attack_masked(options, *any_network(options))


if __name__ == "__main__":
    cli.run(main)
