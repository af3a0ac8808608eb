"""What several files of these tests read: SeqIO's tasks can be registered once in a process."""

import dataclasses
import pathlib
import sys

import numpy as np
import pytest
import small_world

WORDS = ["a0", "b1", "c2", "a3", "b4", "c5", "a6"]


@pytest.fixture(scope="session")
def choice_world(tmp_path_factory):
    """A directory with store/ of two prepared tasks of SeqIO, seven words each, and model/ of their vocabulary."""
    pytest.importorskip("seqio", reason="tasks are checked where SeqIO is installed")
    from cat_jax.data import seqio_task
    from cat_jax.data.manifest import Recipe
    from cat_jax.data.mixture import write_mixture
    from cat_jax.data.record import Example
    from cat_jax.data.writer import write_store

    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pathlib.Path(__file__).parent))
        seqio_task.load_modules("choice_tasks")
    sys.modules.pop("choice_tasks", None)
    for name in ("shout", "choose"):
        task = seqio_task.get_task(name)
        features = seqio_task.feature_infos(task)
        vocabulary = task.output_features["targets"].vocabulary
        examples = []
        for k, word in enumerate(WORDS):
            raw = {"inputs_pretokenized": word, "targets_pretokenized": word.upper()}
            raw["options"] = [word.upper(), "é", "nothing of the kind"]
            tokens = (np.array([*vocabulary.encode(text), 1], np.int32) for text in (word, word.upper()))
            examples.append(Example(str(k), *tokens, raw))
        lengths = {"inputs": 8, "targets": 8}
        write_store(root / "store", Recipe(name, "test", features, lengths, num_shards=1, keep_raw=True), examples)
    write_mixture(root / "store", seqio_task.resolve_mixture(seqio_task.get_provider("shout_and_choose")))
    config = dataclasses.replace(small_world.CONFIG, vocab_size=vocabulary.vocab_size)
    small_world.save_model(root / "model", config=config, vocabulary=features["targets"].vocabulary)
    return root
