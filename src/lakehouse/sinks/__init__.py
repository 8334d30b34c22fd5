"""Where effects happen; each sink states its guarantee."""
