"""Time, memory and compile time beside the peers, in one process and one run."""
