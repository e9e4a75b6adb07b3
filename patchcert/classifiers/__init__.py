"""All of that as modules that a user calls, and what is asked of them."""
