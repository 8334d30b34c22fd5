"""What a user is recommended."""
