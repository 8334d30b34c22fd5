"""The stateful processor of the live platform: Kafka -> Redis, MongoDB and notifications, in milliseconds.

``topology.py`` is its map. Everything that decides is a pure fold over one durable log (``stages`` below), so that a
replay after a crash decides the same again; docs/decisions/0011-realtime-engine.md says why and how.
"""
