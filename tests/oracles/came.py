"""CAME: nothing is divided by its mass, so it is seen that 1 - 0.9999 in float32 is another number."""

FIXED = {"b3": 0.9375}
