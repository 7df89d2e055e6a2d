"""Train a classifier: loop, optimizer steps, batches, initial weights."""
