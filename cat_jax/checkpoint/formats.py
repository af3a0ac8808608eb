"""What `export` writes, for the command, whose help must not wait for JAX, and for the work itself."""

from __future__ import annotations

FORMATS = ("huggingface", "t5x", "t5x_scanned")
DTYPES = ("float32", "bfloat16", "float16")
