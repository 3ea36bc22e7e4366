"""What only the train stage needs."""
