"""Certified defences against adversarial patches: (de)randomized smoothing and interval bounds."""
