"""``/v1/stream``: what happens now, as server-sent events."""
