"""Training of base classifiers."""
