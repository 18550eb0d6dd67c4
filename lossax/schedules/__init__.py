"""Schedules: numbers as functions of the step. Every argument may be traced."""

from lossax.schedules._shapes import cosine as cosine
