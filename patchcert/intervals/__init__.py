"""Interval bounds for patch and sparse attacks: certified training and evaluation without smoothing."""
