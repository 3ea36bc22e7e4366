"""Pictures to model input, and the model outside of Keras."""
