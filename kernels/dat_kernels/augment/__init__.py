"""Gather, crop, flip and convert uint8 images of a resident data set in one pass; see README.md."""
