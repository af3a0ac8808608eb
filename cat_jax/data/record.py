"""One example as bytes: a CRC-32, then msgpack [example id, inputs, targets, raw fields]."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from cat_jax.data.manifest import FeatureInfo


class CorruptRecord(ValueError):
    """Bytes that are no record, or not the record that was written."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One example of a store.

    `targets` holds the end-of-sequence token where the task appends one. `raw` holds the example's other SeqIO
    fields as JSON-able values: strings, numbers, lists; None where the store keeps none.
    """

    example_id: str
    inputs: np.ndarray | None  # i32[S]
    targets: np.ndarray  # i32[T]
    raw: dict[str, Any] | None = None


def encode(example: Example, features: Mapping[str, FeatureInfo]) -> bytes:
    """The record of an example; equal examples are equal bytes."""
    inputs = None if example.inputs is None else example.inputs.astype(features["inputs"].dtype).tobytes()
    targets = example.targets.astype(features["targets"].dtype).tobytes()
    payload: Any = msgpack.packb([example.example_id, inputs, targets, example.raw])
    return zlib.crc32(payload).to_bytes(4, "little") + payload


def parts(record: bytes) -> tuple[str, bytes | None, bytes, dict[str, Any] | None]:
    """The fields of a record, token ids still as bytes.

    Raises:
      CorruptRecord: the bytes are not what was written.
    """
    payload = record[4:]
    if zlib.crc32(payload) != int.from_bytes(record[:4], "little"):
        raise CorruptRecord("checksum does not fit")
    return msgpack.unpackb(payload, strict_map_key=False)


def decode(record: bytes, features: Mapping[str, FeatureInfo]) -> Example:
    """The example in a record.

    Raises:
      CorruptRecord: the bytes are not what was written.
    """
    example_id, inputs, targets, raw = parts(record)
    return Example(
        example_id,
        None if inputs is None else np.frombuffer(inputs, features["inputs"].dtype).astype(np.int32),
        np.frombuffer(targets, features["targets"].dtype).astype(np.int32),
        raw,
    )
