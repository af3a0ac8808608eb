"""PyTorch's pickles are refused by name: to open one is to run what it says."""

from __future__ import annotations

import pathlib

from cat_jax.errors import UserError

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def refuse_pickle(path: pathlib.Path) -> None:
    """Refuses a file that has a pickle's name.

    Raises:
      UserError: it has one.
    """
    if path.suffix in SUFFIXES:
        raise UserError(
            f"{path} is a PyTorch pickle, which may run anything when it is opened, and is not read",
            "where you trust it, save the model again as safetensors: "
            "transformers' from_pretrained(folder).save_pretrained(another)",
        )


def refuse_pickles_of(folder: pathlib.Path) -> None:
    """Refuses a folder whose weights can only be pickles: nothing else that is read was found in it.

    Raises:
      UserError: it has one; names the first.
    """
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stem not in ("training_args", "optimizer", "scheduler"):
            refuse_pickle(path)
