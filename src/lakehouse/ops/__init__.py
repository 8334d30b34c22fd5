"""Tables about the platform itself that no stream writes."""
