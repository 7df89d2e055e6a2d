"""Augmentation of training images, in batches and on the training device."""
