"""What comes: forecasts, bottlenecks, trending topics."""
