"""Training: target scans, batches, the training loop and its recipes."""
