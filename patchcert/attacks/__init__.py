"""Adversaries against both defences: what they may do, how they climb, where they look."""
