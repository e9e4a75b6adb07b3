"""What networks say of all copies of an image."""
