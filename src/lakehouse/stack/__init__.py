"""The local servers: fetch, build, start, watch, stop."""
