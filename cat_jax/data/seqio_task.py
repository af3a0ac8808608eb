"""SeqIO as the program sees it: tasks by name, their vocabularies, and their examples as NumPy arrays.

SeqIO and TensorFlow are imported inside functions: that takes ten seconds, and training does without.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import inspect
import itertools
import logging
import os
import pathlib
import pkgutil
import re
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cat_jax.data.fingerprint import vocabulary_fingerprint
from cat_jax.data.manifest import FEATURES, FeatureInfo
from cat_jax.data.mixture import Mixture, MixtureTask
from cat_jax.errors import DataError, UserError

logger = logging.getLogger(__name__)


@functools.cache
def import_seqio() -> Any:
    """The module seqio, with TensorFlow quiet and kept off the accelerators.

    Raises:
      UserError: it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _without_start_messages():
            import seqio
            import tensorflow as tf

            for kind in ("GPU", "TPU"):
                try:
                    tf.config.set_visible_devices([], kind)
                except (RuntimeError, ValueError):  # TensorFlow runs already: whoever started it has chosen
                    logger.debug("TensorFlow was started before its %s devices could be hidden", kind)
    except ImportError as e:
        raise UserError(f"cannot import SeqIO ({e})", "pip install 'cat-jax[data]'") from e
    logging.getLogger("absl").setLevel(logging.ERROR)  # SeqIO tells every pipeline step at WARNING and INFO
    return seqio


@contextlib.contextmanager
def _without_start_messages() -> Iterator[None]:
    """Holds stderr back while TensorFlow starts, then gives out what was not its greeting, which no flag silences."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            lines = held.read().splitlines(keepends=True)
            os.write(2, b"".join(line for line in lines if not _GREETING.match(line)))


_GREETING = re.compile(rb"[IWE]\d{4} |\d{4}-\d\d-\d\d \S+ [IWE] |WARNING: All log messages before absl::InitializeLog")


def module_names(modules: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names of modules given as a sequence, as one string with commas, or not at all.

    >>> module_names("a.b, c"), module_names(["a"]), module_names(None)
    (('a.b', 'c'), ('a',), ())
    """
    names = modules.split(",") if isinstance(modules, str) else modules or ()
    return tuple(name.strip() for name in names if name.strip())


def load_modules(modules: str | Sequence[str] | None, option: str = "MIXTURE_OR_TASK_MODULE") -> None:
    """Imports the modules that register tasks; the working directory is on the path as it is for `python -m`.

    Args:
      modules: their names.
      option: what the user named them in, for messages.

    Raises:
      UserError: a module does not exist, or fails while it is imported.
    """
    import_seqio()
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    for name in module_names(modules):
        try:
            importlib.import_module(name)
        except UserError:
            raise
        except (Exception, SystemExit) as e:
            missing = isinstance(e, ModuleNotFoundError) and e.name and f"{name}.".startswith(f"{e.name}.")
            if isinstance(e, ModuleNotFoundError) and not missing:
                raise  # a package that the module needs: told as any package that is not installed
            if missing:
                close = difflib.get_close_matches(name, _siblings(name), n=2)
                asked = f"did you mean {' or '.join(close)}? Else check" if close else "check"
                mend = f"{asked} {option}, and put the directory that holds the module on PYTHONPATH"
                raise UserError(f"no module {name!r}", mend) from e
            problem = f"the task module {name!r} fails when imported ({type(e).__name__}: {e})"
            raise UserError(problem, f"make `python -c 'import {name}'` work") from e


def _siblings(module: str) -> list[str]:
    """The modules beside one that does not exist: in its package, or in the working directory."""
    package = module.rpartition(".")[0]
    places: Sequence[str] | None = [os.getcwd()]
    if package:
        try:
            found = importlib.util.find_spec(package)
        except ImportError:
            return []
        places = found.submodule_search_locations if found is not None else None
    return [f"{package}.{item.name}" if package else item.name for item in pkgutil.iter_modules(places or [])]


def get_provider(name: str, option: str = "MIXTURE_OR_TASK_NAME") -> Any:
    """The registered SeqIO mixture or task called `name`, which the user gave in `option`.

    Raises:
      UserError: there is none; tells the closest names.
    """
    seqio = import_seqio()
    mixtures, tasks = seqio.MixtureRegistry.names(), seqio.TaskRegistry.names()
    if name in mixtures:
        return seqio.MixtureRegistry.get(name)
    if name in tasks:
        return seqio.TaskRegistry.get(name)
    close = difflib.get_close_matches(name, [*mixtures, *tasks], n=3, cutoff=0.5)
    hint = f" (close: {', '.join(close)})" if close else ""
    raise UserError(
        f"no task or mixture {name!r} is registered{hint}",
        f"check {option}, and name the module that registers it in MIXTURE_OR_TASK_MODULE",
    )


def get_task(name: str) -> Any:
    """The registered SeqIO task called `name`.

    Raises:
      UserError: there is none, or it is a mixture.
    """
    provider = get_provider(name)
    if hasattr(provider, "tasks"):
        raise UserError(f"{name!r} is a mixture", f"name one of its tasks: {', '.join(t.name for t in provider.tasks)}")
    return provider


def tasks_of(provider: Any) -> list[Any]:
    """The tasks of a mixture in SeqIO's order (by name), or the task itself."""
    return list(getattr(provider, "tasks", [provider]))


def resolve_mixture(provider: Any) -> Mixture:
    """The tasks with their rates as numbers: rate functions (caps, temperature) and mixtures within are resolved."""
    tasks = tasks_of(provider)
    rates = [float(provider.get_rate(task)) for task in tasks] if hasattr(provider, "get_rate") else [1.0]
    pairs = zip(tasks, rates, strict=True)
    return Mixture(provider.name, tuple(MixtureTask(task.name, rate, tuple(task.splits)) for task, rate in pairs))


def num_input_examples(task: Any, split: str) -> int | None:
    """Examples of the task's source before preprocessing; None where the source does not say."""
    try:
        return task.num_input_examples(split)
    except (KeyError, AttributeError, TypeError):
        return None


def feature_infos(task: Any) -> dict[str, FeatureInfo]:
    """Vocabulary and size of each token feature of a task.

    Raises:
      UserError: the task has no targets, or output features that the store does not hold.
    """
    odd = [name for name in task.output_features if name not in FEATURES]
    if odd or "targets" not in task.output_features:
        has = ", ".join(task.output_features)
        mend = "give it output_features `inputs` and `targets`, or `targets` alone; other fields may stay, as raw ones"
        raise UserError(f"task {task.name!r} has the output features {has}", mend)
    infos = {}
    for name in FEATURES:
        feature = task.output_features.get(name)
        if feature is None:
            continue
        vocabulary = feature.vocabulary
        infos[name] = FeatureInfo(
            vocabulary=vocabulary_fingerprint(vocabulary),
            vocab_size=int(vocabulary.vocab_size),
            eos_id=None if vocabulary.eos_id is None else int(vocabulary.eos_id),
            add_eos=bool(feature.add_eos),
            zero_is_token=vocabulary.pad_id != 0 or vocabulary.eos_id == 0,
        )
    return infos


def vocabularies_of(provider: Any) -> list[Any]:
    """The vocabularies of the token features of a task, or of a mixture's tasks."""
    features = [task.output_features[name] for task in tasks_of(provider) for name in task.output_features]
    return [feature.vocabulary for feature in features]


def dataset(task: Any, split: str, shard: int, num_shards: int, lengths: Mapping[str, int], seed: int) -> Any:
    """The untrimmed tf.data pipeline of one shard of a task, in order, deterministic.

    `seed` reaches random preprocessors. A source that takes no seed is given none; TensorFlow's own seed then fixes
    what its preprocessors draw.
    """
    seqio = import_seqio()
    import tensorflow as tf

    tf.random.set_seed(seed)
    arguments: dict[str, Any] = {
        "sequence_length": dict(lengths),
        "split": split,
        "shuffle": False,
        "seed": seed,
        "shard_info": seqio.ShardInfo(shard, num_shards),
        "use_cached": False,
        "num_epochs": 1,
        "trim_output_features": False,
        "try_in_mem_cache": False,
    }
    if _takes_no_seed(task.source):
        arguments["seed"] = None
    options = tf.data.Options()
    options.deterministic = True
    options.threading.max_intra_op_parallelism = 1
    options.threading.private_threadpool_size = 2
    return task.get_dataset(**arguments).with_options(options)


_OURS = re.compile(r"\bUserError: ([^\n]*)")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_LIBRARIES = (
    "site-packages",
    "dist-packages",
    f"{pathlib.Path(__file__).parents[1]}{os.sep}",
    "<",
    "__autograph_generated",
)
"""Parts of the paths of code that is not the task's own: installed, of this package, or of no file."""
_PIECES = re.compile(r"""/\S*\.model\b|["'][^\s"']+\.model["']""")
"""The path of a SentencePiece model."""
_SHOWN = 400
"""Letters of a reason in a message."""


@contextlib.contextmanager
def source_errors(task: str, split: str | None = None) -> Iterator[None]:
    """Turns whatever a task's own code or data raises into one line that names the task."""
    try:
        yield
    except (UserError, GeneratorExit, ModuleNotFoundError, MemoryError):
        raise
    except Exception as e:
        ours = _OURS.search(str(e))  # raised in a pipeline, and told among TensorFlow's own words
        reason = _shortened(ours[1] if ours else _reason(e))
        what = f"task {task!r}" + (f", split {split!r}" if split is not None else "")
        mend = "check its source and preprocessors, and TFDS_DATA_DIR if it reads TFDS"
        if _PIECES.search(str(e)):
            mend = "check the path of its vocabulary; CAT_JAX_VOCABULARY gives the bundled tasks another"
        if isinstance(e, ConnectionError | TimeoutError):  # nothing is wrong with the task: what is written may stay
            raise UserError(f"{what} cannot be reached ({reason})", "start the same command again to go on") from e
        raise DataError(f"{what} cannot be read ({reason})", mend, task) from e


def _reason(error: Exception) -> str:
    """What went wrong, and the last line of the task's own code on the way there, if there is one."""
    said = str(error)
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if "in user code:" in said:  # AutoGraph's words: the frames of the code, and in the end the error itself
        frames = _FRAME.findall(said)
        said = said.strip().splitlines()[-1].strip()
    else:
        said = f"{type(error).__name__}: {said}"
    own = [(path, line) for path, line in frames if not any(part in path for part in _LIBRARIES)]
    return f"{said}; {own[-1][0]} line {own[-1][1]}" if own else said


def _shortened(text: str) -> str:
    """The beginning and the end of a text: the one names the error, the other its place."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-_SHOWN // 2 :]}"


def arrays(pipeline: Any) -> Iterator[dict[str, Any]]:
    """The elements of a pipeline as NumPy values: arrays, scalars, bytes; lists of arrays where they are ragged."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    known = (tf.TensorSpec, tf.RaggedTensorSpec)
    if not all(isinstance(s, known) and s.shape.rank is not None for s in pipeline.element_spec.values()):
        yield from tfds.as_numpy(pipeline)
        return
    # Taking elements out of tf.data one by one costs ten times what this costs.
    for block in pipeline.ragged_batch(_BLOCK):
        columns = {name: _rows(value) for name, value in block.items()}
        for i in range(len(columns["targets"])):
            yield {name: column[i] for name, column in columns.items()}


_BLOCK = 128


def _rows(value: Any) -> Sequence[Any]:
    """The rows of a batched tensor."""
    if not hasattr(value, "row_splits"):
        return value.numpy()
    splits, inner = value.row_splits.numpy().tolist(), _rows(value.values)
    return [inner[start:stop] for start, stop in itertools.pairwise(splits)]


def vocabulary(task_name: str, feature: str = "targets") -> Any:
    """The SeqIO vocabulary of a task's feature."""
    return get_task(task_name).output_features[feature].vocabulary


def decode(vocabulary: Any, ids: Iterable[int]) -> str:
    """The text of token ids up to the first end-of-sequence, as SeqIO decodes them."""
    return vocabulary.decode([int(i) for i in ids])


def describe(task: Any) -> dict[str, Any]:
    """What `cat-jax tasks` shows of a task: JSON-able, and without reading its data."""
    functions = [getattr(f, "__name__", type(f).__name__) for f in task.metric_fns]
    return {
        "name": task.name,
        "splits": {split: num_input_examples(task, split) for split in task.splits},
        "features": {name: info.__dict__ for name, info in feature_infos(task).items()},
        "metrics": functions + [type(m).__name__ for m in task._metric_objs_constructor_args],
        "source": type(task.source).__name__,
    }


def _takes_no_seed(source: Any) -> bool:
    function = getattr(source, "_dataset_fn", None)
    return function is not None and "seed" not in inspect.signature(function).parameters
