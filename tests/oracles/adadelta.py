"""Adadelta: its first steps are of the size of the root of `eps`, too small for a test that waits."""

FIXED = {"eps": 1e-4}
