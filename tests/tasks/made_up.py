"""Rows of a TFDS data set that nobody has to download: every text is the name of its feature in brackets."""

import functools
import tempfile

import tensorflow as tf
import tensorflow_datasets as tfds

ITEMS = 2
"""Items of every sequence."""


@functools.cache
def features(source):
    """What TFDS's own builder class declares.

    Raises whatever the builder raises that cannot say so without its data.
    """
    with tempfile.TemporaryDirectory() as nowhere:
        return tfds.builder(source, data_dir=nowhere).info.features


def rows(source, count=1, **values):
    """A dataset of `count` such rows with the source's own types; `values` of features by name, lists row by row."""
    spec = features(source).get_tensor_spec()
    row = {name: value_of(of_feature, name) for name, of_feature in spec.items()}
    dataset = tf.data.Dataset.from_tensors(row).repeat(count)
    for name, value in values.items():
        if name in row:
            each = tf.constant(value if isinstance(value, list) else [value] * count, row[name].dtype)
            given = tf.data.Dataset.from_tensor_slices(each)
            dataset = tf.data.Dataset.zip(dataset, given).map(lambda row, value, name=name: {**row, name: value})
    assert {name: compatible(one) for name, one in dataset.element_spec.items()} == {
        name: compatible(one) for name, one in spec.items()
    }
    return dataset


def value_of(spec, name):
    if isinstance(spec, dict):
        return {key: value_of(one, f"{name}.{key}") for key, one in spec.items()}
    if isinstance(spec, tf.RaggedTensorSpec):
        flat = value_of(tf.TensorSpec([None], spec.dtype), name)
        return tf.RaggedTensor.from_row_lengths(tf.concat([flat] * ITEMS, 0), [ITEMS] * ITEMS)
    shape = [ITEMS if size is None else size for size in spec.shape]
    if spec.dtype == tf.string:
        if not shape:
            return tf.constant(f"[{name}]")
        return tf.reshape(tf.stack([f"[{name} {k + 1}]" for k in range(shape[0])]), shape)
    return tf.zeros(shape, spec.dtype)


def compatible(spec):
    """A specification without its sizes: what a graph sees of a made-up row is what it sees of a real one."""
    if isinstance(spec, dict):
        return {name: compatible(one) for name, one in spec.items()}
    return (spec.dtype, spec.shape.rank)
