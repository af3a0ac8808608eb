"""Which TFDS data is on this machine's disk, read off its directories: without TensorFlow, in milliseconds."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence


def directory_of(name: str) -> pathlib.Path:
    """Where TFDS keeps `name[/config]:version`.

    >>> directory_of("glue/sst2:2.0.0").parts[-3:]
    ('glue', 'sst2', '2.0.0')
    """
    dataset, _, version = name.partition(":")
    root = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(root).expanduser() / dataset / version


def sizes_there(name: str) -> dict[str, int] | None:
    """{split of TFDS: rows} of the data on disk; None where there is none."""
    try:
        info = json.loads((directory_of(name) / "dataset_info.json").read_text())
    except (OSError, ValueError):
        return None
    return {split["name"]: sum(map(int, split.get("shardLengths", []))) for split in info.get("splits", [])}


def rows(source: str, splits: Mapping[str, str]) -> dict[str, int | None]:
    """{our split: rows on disk}, None for what is not there, of the sources that `catalog.Entry` names."""
    if source.startswith("sacrebleu:"):
        return {ours: _elsewhere(theirs) for ours, theirs in splits.items()}
    sizes = sizes_there(source)
    there = splits_there(source, splits) if sizes is not None else {}
    return {ours: rows_of(there[ours], sizes or {}) if ours in there else None for ours in splits}


def _elsewhere(theirs: str) -> int | None:
    if theirs.startswith("sacrebleu:"):
        test_set, _, direction = theirs.removeprefix("sacrebleu:").partition("/")
        root = pathlib.Path(os.environ.get("SACREBLEU") or "~/.sacrebleu").expanduser()
        return _lines(root / test_set / f"{test_set}.{direction}.src")
    if theirs.startswith("mtdata:"):
        fetched, _, published = theirs.removeprefix("mtdata:").partition(" or ")
        recipe, _, codes = fetched.partition("/train.")
        files = mtdata_files(recipe, codes.split("+"))
        if files is not None:
            return mtdata_pairs(files) or 0
        if not published:
            return None
        name, _, split = published.partition(" ")
        return (sizes_there(name) or {}).get(split)
    return None


def mtdata_files(recipe: str, codes: Sequence[str]) -> tuple[pathlib.Path, pathlib.Path] | None:
    """The merged training files of an mtdata recipe for two languages (ISO 639-3), source first; None without both."""
    root = os.environ.get("WMT22_MTDATA_DIR")
    source, target = (pathlib.Path(root or "").expanduser() / recipe / f"train.{code}" for code in codes)
    return (source, target) if root and source.exists() and target.exists() else None


def mtdata_pairs(files: tuple[pathlib.Path, pathlib.Path]) -> int | None:
    """How many pairs mtdata says that it has merged; None if it does not."""
    try:
        return int(json.loads((files[0].parent / "train.stats.json").read_text())["total"])
    except (OSError, ValueError, KeyError):
        return None


def _lines(file: pathlib.Path) -> int | None:
    try:
        return file.read_bytes().count(b"\n")
    except OSError:
        return None


def splits_there(name: str, splits: Mapping[str, str]) -> dict[str, str]:
    """Of {our split: TFDS's split or slice} those whose rows are on disk, as slices of what is there.

    As they are where nothing is on disk yet, or where it fits. A smaller copy than the official one may not: slices
    then end where it ends, `train` gives way to the other splits of the same rows, and a split without a row is gone.
    """
    sizes = sizes_there(name)
    if sizes is None:
        return dict(splits)
    there = {ours: theirs for ours, theirs in splits.items() if base_of(theirs) in sizes}
    ranges = {ours: range_of(theirs, sizes) for ours, theirs in there.items()}
    if "train" in there:
        train = ranges["train"]
        for ours, others in ranges.items():
            shared = ours != "train" and base_of(there[ours]) == base_of(there["train"])
            if shared and max(train.start, others.start) < min(train.stop, others.stop):
                before = range(train.start, max(train.start, others.start))
                train = max(before, range(min(train.stop, others.stop), train.stop), key=len)
        ranges["train"] = train
    resolved = {}
    for ours, rows_ in ranges.items():
        if len(rows_):
            whole = base_of(there[ours])
            is_whole = len(rows_) == sizes[whole]
            resolved[ours] = whole if is_whole else f"{whole}[{rows_.start}:{rows_.stop}]"
    return resolved


def rows_of(slice_: str, sizes: Mapping[str, int]) -> int:
    """How many rows a slice of a split has.

    >>> rows_of("train[:-200]", {"train": 1000}), rows_of("train[30000:30200]", {"train": 30100})
    (800, 100)
    """
    return len(range_of(slice_, sizes))


def range_of(slice_: str, sizes: Mapping[str, int]) -> range:
    """The rows of a slice of a split.

    >>> range_of("train[-200:]", {"train": 1000})
    range(800, 1000)
    """
    found = re.fullmatch(r"(\w+)(?:\[(-?\d*):(-?\d*)\])?", slice_)
    if found is None:
        raise ValueError(f"{slice_!r} is no slice by rows")
    split, start, stop = found.groups()
    bounds = (int(bound) if bound else None for bound in (start, stop))
    return range(sizes[split])[slice(*bounds)]


def part_of(slice_: str, sizes: Mapping[str, int], index: int, count: int) -> str:
    """Part `index` of a slice that is cut in `count` parts, in order.

    >>> [part_of("train[:-200]", {"train": 1000}, k, 3) for k in range(3)]
    ['train[0:266]', 'train[266:533]', 'train[533:800]']
    """
    rows_ = range_of(slice_, sizes)
    start, stop = (rows_.start + len(rows_) * k // count for k in (index, index + 1))
    return f"{base_of(slice_)}[{start}:{stop}]"


def base_of(slice_: str) -> str:
    """The split that a slice is of."""
    return slice_.partition("[")[0]
