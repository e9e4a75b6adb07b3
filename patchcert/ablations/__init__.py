"""What each copy of an image shows."""
