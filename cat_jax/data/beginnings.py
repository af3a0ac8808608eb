"""What stands where an example begins: neither nothing, nor the same token twice."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cat_jax.data.store import ExampleStore
from cat_jax.errors import UserError
from cat_jax.types import ModelConfig

_LOOKED_AT = 8
"""Examples of a store; a prompt's template is the same for all of them."""


def check_beginnings(stores: Iterable[ExampleStore], model: ModelConfig) -> None:
    """Makes sure that an example begins once.

    With inputs, where the model cannot begin without (see `types.ModelConfig`): what such a model would say of the
    first token is an accident; in training it would learn it, too. And not with the id that the model puts there
    itself, its `bos_id`, as rendered chats do: no model has been trained on two of them.

    Raises:
      UserError: an example has no inputs, or a store's examples begin with the model's `bos_id`; names the store.
    """
    bos_id = getattr(model, "bos_id", None)
    for store in stores:
        has_inputs = store.lengths[:, 0] > 0
        if getattr(model, "needs_inputs", False) and not has_inputs.all():
            raise UserError(
                f"{int((~has_inputs).sum())} of {len(store)} examples of {store.directory} have no inputs, and the "
                "model has nothing to begin their targets with: its bos_id is None",
                "set bos_id to the id of its token for the beginning of a text, or for the end of one; "
                "or leave these examples out",
            )
        if bos_id is None or not has_inputs.any():
            continue
        some = [example.inputs for example in store.read(np.flatnonzero(has_inputs)[:_LOOKED_AT])]
        if all(inputs is not None and inputs[0] == bos_id for inputs in some):
            raise UserError(
                f"the inputs in {store.directory} begin with id {bos_id}, and the model puts that there, too",
                "set bos_id = None in its configuration, as models want it that read rendered chats",
            )
