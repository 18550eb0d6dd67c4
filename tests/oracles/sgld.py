"""Langevin dynamics: at rest they are noise, and a mask gives a leaf other draws, which general tests must not see."""

FIXED = {"temperature": 0.0}
