"""Checks of single records: what is valid, and every reason why not."""
