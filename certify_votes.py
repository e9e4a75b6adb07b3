"""Answer further questions about images that were certified with --save_votes, without running a network.

    python3 certify_cifar_band.py --threshold 0.1 --save_votes votes.npz --checkpoint NAME
    python3 certify_votes.py --votes votes.npz --size_to_certify 1-10 --threshold 0.1,0.2,0.3 --certificate margin,exact
    python3 certify_votes.py --votes votes.npz --size_to_certify 2x8 --top_one
    python3 certify_votes.py --votes windows.npz --goal recover,alert --confidence strict,0,0.5,0.9

A file of votes holds the two largest probabilities of each ablated copy, and all those above a floor. The floor is a
little below the smallest θ of the run that wrote the file. Each copy votes for every class whose probability is at
least θ, or with --top_one only for its most probable class (Levine and Feizi, NeurIPS 2020, section 3). A file from
certify_imagenet_windows.py holds the network's answers with one and with two windows hidden.
"""

from patchcert import certify_votes, cli


def main() -> None:
    certify_votes(__doc__)


if __name__ == "__main__":
    cli.run(main)
