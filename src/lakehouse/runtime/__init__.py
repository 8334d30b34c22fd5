"""The only place that starts queries and orders effects."""
