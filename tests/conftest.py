"""Settings of every test: the CPU, no silent rank promotion, hypothesis without deadlines."""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

# What one test or process compiled, the others of this session load: programs repeat, above all the many small ones.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.mkdtemp(prefix="dms_jax-compiled-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": compiled,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
if "XDG_CACHE_HOME" not in os.environ:  # what tests measure is of no use to anybody
    measured = tempfile.mkdtemp(prefix="dms_jax-measured-")
    atexit.register(shutil.rmtree, measured, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = measured
# Keras reads it when it is first imported, whoever does that.
os.environ.setdefault("KERAS_BACKEND", "jax")
# Workers run side by side: none needs threads of its own inside a product. Compiling takes most of the time: without
# optimisations, in one part and with the emitters of loops that do without MLIR it takes a fifth. Loops run slower
# then, which few steps of small networks do not notice; a test of many steps raises the level. Child processes get the
# same; flags that were given come last and win.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_cpu_multi_thread_eigen=false",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
        # a flag that newer ones do not know, and a process that is given such a flag ends
        "--xla_cpu_use_fusion_emitters=false" if importlib.metadata.version("jaxlib").startswith("0.10.") else "",
        os.environ.get("XLA_FLAGS", ""),
    ]
)

import hypothesis
import jax

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
# Eight devices for the tests of sharding; every other test runs on the first.
jax.config.update("jax_num_cpu_devices", 8)
# [N] + [N, 1] is almost always a mistake; code under test broadcasts by name.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example of a property compiles, so no deadline is fair. A run of CI can be repeated exactly.
hypothesis.settings.register_profile("dms", deadline=None, derandomize="CI" in os.environ, print_blob=True)
hypothesis.settings.load_profile("dms")
