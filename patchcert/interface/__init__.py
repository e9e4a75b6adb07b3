"""What Python users call: certify, interval bounds, and what comes back."""
