"""Examples without inputs, and models that have nothing to begin them with."""

from __future__ import annotations

from collections.abc import Iterable

from cat_jax.data.store import ExampleStore
from cat_jax.errors import UserError
from cat_jax.types import ModelConfig


def check_beginnings(stores: Iterable[ExampleStore], model: ModelConfig) -> None:
    """Makes sure that every example has inputs, where the model cannot begin without (see `types.ModelConfig`).

    What such a model would say of the first token is an accident; in training it would learn it, too.

    Raises:
      UserError: an example has none; names the store.
    """
    if not getattr(model, "needs_inputs", False):
        return
    for store in stores:
        empty = int((store.lengths[:, 0] == 0).sum())
        if empty:
            raise UserError(
                f"{empty} of {len(store)} examples of {store.directory} have no inputs, and the model has nothing to "
                "begin their targets with: its bos_id is None",
                "set bos_id to the id of its token for the beginning of a text, or for the end of one; "
                "or leave these examples out",
            )
