"""Networks that ship, by their names."""
