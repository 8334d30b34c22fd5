"""Records as the contracts mean them: parsed, checked, one row per identity."""
