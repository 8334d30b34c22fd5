"""Answers: one row per key, equal to a recomputation from silver."""
