"""Ablated copies vote, and a patch can change only some of the votes: (de)randomized smoothing."""
