"""Where data comes from: Kafka for the stream, Delta tables for everybody else."""
