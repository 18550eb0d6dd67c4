"""The parts of the main job, `python -m lossax`. Needs Flax, which `import lossax` does not."""
