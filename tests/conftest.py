"""The strictest JAX there is: 8 CPU devices, strict dtype promotion, no rank promotion."""

import gc
import importlib.metadata
import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # XLA stops at flags that it does not know
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"  # a quarter of the time; numbers are the same
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling is what the tests cost; programs are shared between workers and runs.
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# Tracing makes millions of small objects that live on in caches; looking through them again and again takes a while.
gc.set_threshold(100_000, 50, 50)
