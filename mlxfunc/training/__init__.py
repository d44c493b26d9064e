"""Training: batches, the compiled step, the loop, callbacks, progress, several machines."""
