"""Nothing begins twice: a rendered chat has its beginning in its text, and the model puts none before it."""

import dataclasses

import numpy as np
import pytest

from cat_jax.data.beginnings import check_beginnings
from cat_jax.data.manifest import FeatureInfo, Recipe
from cat_jax.data.record import Example
from cat_jax.data.store import ExampleStore
from cat_jax.data.writer import write_store
from cat_jax.errors import UserError
from cat_jax.models.decoder_config import DecoderConfig
from cat_jax.models.t5_config import T5Config

SIZES = {"vocab_size": 9, "embed_dim": 8, "num_heads": 2, "head_dim": 4, "mlp_dim": 8}
MODEL = DecoderConfig(**SIZES, num_layers=1, bos_id=2)


def store_of(root, rows):
    feature = FeatureInfo("v", 9, 1, True)
    recipe = Recipe("chat", "train", {"inputs": feature, "targets": feature}, {"inputs": 4, "targets": 2}, 1, False)
    arrays = [None if row is None else np.array(row, np.int32) for row in rows]
    write_store(root, recipe, [Example(str(k), row, np.array([5, 1], np.int32)) for k, row in enumerate(arrays)])
    return ExampleStore.open(root, "chat", "train")


def test_a_store_that_begins_as_the_model_does_is_refused(tmp_path):
    store = store_of(tmp_path, [[2, 3], [2, 4, 5]])
    with pytest.raises(
        UserError, match=r"in .*chat/train begin with id 2, and the model puts that there.*bos_id = None"
    ):
        check_beginnings([store], MODEL)
    for model in (
        dataclasses.replace(MODEL, bos_id=None),
        dataclasses.replace(MODEL, bos_id=3),
        T5Config(**SIZES, num_encoder_layers=1, num_decoder_layers=1),
    ):
        check_beginnings([store], model)


@pytest.mark.parametrize("rows", [[[2, 3], [3, 2]], [None, None], [[]]])
def test_one_that_does_not_is_not(tmp_path, rows):
    check_beginnings([store_of(tmp_path, rows)], MODEL)
