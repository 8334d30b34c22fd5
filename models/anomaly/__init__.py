"""What is unusual in metrics, log rates and log lines."""
