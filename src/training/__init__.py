"""The training step, its state, and the model file."""
