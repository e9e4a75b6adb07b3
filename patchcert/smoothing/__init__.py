"""(De)randomized smoothing: ablated copies of an image vote, and a patch can change only some of the votes."""
