"""Probabilities in two bytes: their logarithm in steps of 1/2048 nat.

Code 65535 is probability 1, each step down divides by exp(1/2048), code 1 is exp(-31.9990), code 0 is probability 0.
The relative error is at most exp(1/4096) - 1 = 2.45e-4 wherever the probability lies, where float16 loses all
precision below 6e-5. That matters for a confident teacher, whose interesting probabilities are the small ones.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

STEPS_PER_NAT = 2048
MAX_RELATIVE_ERROR = float(np.expm1(1 / (2 * STEPS_PER_NAT)))
_ONE = 65535

_LOGS = (np.arange(_ONE + 1) - _ONE) / STEPS_PER_NAT
_LOGS[0] = -np.inf
_LOG_TABLE = _LOGS.astype(np.float32)
_TABLE = np.exp(_LOGS).astype(np.float32)


def encode_log_probability(log_probabilities: jax.Array) -> jax.Array:
    """uint16 codes of natural logarithms of probabilities, any shape; -inf and what is below exp(-32) become 0.

    >>> encode_log_probability(jnp.array([0.0, -1.0, -100.0])).tolist()
    [65535, 63487, 0]
    """
    steps = jnp.round(jnp.maximum(log_probabilities, -100.0) * STEPS_PER_NAT)
    return jnp.clip(_ONE + steps, 0, _ONE).astype(jnp.uint16)


def decode_probability(codes: Any) -> Any:
    """f32 probabilities of uint16 codes, of NumPy or of JAX.

    >>> decode_probability(np.array([65535, 63487, 0], np.uint16)).tolist()
    [1.0, 0.3678794503211975, 0.0]
    """
    return jnp.asarray(_TABLE)[codes] if isinstance(codes, jax.Array) else _TABLE[codes]


def decode_log_probability(codes: np.ndarray) -> np.ndarray:
    """f32 natural logarithms of the probabilities of uint16 codes; code 0 is -inf."""
    return _LOG_TABLE[codes]
