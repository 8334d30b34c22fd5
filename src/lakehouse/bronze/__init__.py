"""Records as they came, byte for byte."""
