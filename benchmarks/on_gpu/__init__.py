"""What gpu.py measures."""
