"""The strictest JAX there is: 8 CPU devices, strict dtype promotion, no rank promotion."""

import gc
import importlib.metadata
import itertools
import os
import pathlib
import zlib

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # XLA stops at flags that it does not know
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"  # XLA's older emitters, for a quarter less time
    os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"  # a program in one piece, for a quarter more
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"  # `vocabulary.optimised` where it matters
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling is what the tests cost; programs are shared between workers and runs.
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# Tracing makes millions of small objects that live on in caches; looking through them again and again takes a while.
gc.set_threshold(100_000, 50, 50)


CLEAR_AFTER = 750  # tests; what JAX remembers of them takes more than a gigabyte
CONTRACTS = ("tests/test_losses.py::", "tests/test_set_losses.py::")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """All tests of one loss run in one worker, which compiles the programs that they share once."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByLoss(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return nodeid.removesuffix("]").replace("[", "-").split("-")[-1] if nodeid.startswith(CONTRACTS) else nodeid

    return ByLoss(config, log)


def pytest_collection_modifyitems(items):
    """Of a test of what many share, with the mark `sampled`, the first case and one of sixteen others are not slow."""
    begun = set()
    for item in items:
        if item.get_closest_marker("sampled"):
            test = item.nodeid.split("[")[0]
            if test in begun and zlib.crc32(item.nodeid.encode()) % 16:
                item.add_marker("slow")
            begun.add(test)


def pytest_runtest_setup(item):
    """A test draws the same numbers whatever ran before it in this worker."""
    rng = getattr(getattr(item, "module", None), "RNG", None)
    if rng is not None:
        rng.bit_generator.state = np.random.default_rng(zlib.crc32(item.nodeid.encode())).bit_generator.state


_tests = itertools.count(1)


def pytest_runtest_teardown():
    if next(_tests) % CLEAR_AFTER == 0:
        jax.clear_caches()
