"""What tasks there are, read off the tables (TOML) that also register them: without SeqIO or TensorFlow.

`cat-jax tasks` lists names from here in a fraction of a second; `tests/tasks/test_catalog.py` holds the lists and the
registries together.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import importlib.util
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from cat_jax_tasks import on_disk


@dataclasses.dataclass(frozen=True)
class Entry:
    """One task.

    Attributes:
      name: as SeqIO knows it.
      module: which one registers it.
      about: one line.
      source: TFDS's `name:version`, or where else the rows come from.
      splits: {the task's split: the source's split or slice}.
      metrics: by the names of `metrics.registry`; the first is the headline.
      license: of the data, as known.
      sizes: rows of the task's official splits, where they are known without the data.
      options: the texts of the labels, in their order; empty where there are none or each row has its own.
      cluster: of FLAN2021; "" elsewhere.
      kind: "cls" or "gen".
      extra: whether it is left out of the mixtures.
      details: everything else that the table says.
    """

    name: str
    module: str
    about: str
    source: str
    splits: Mapping[str, str]
    metrics: tuple[str, ...]
    license: str
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    options: tuple[str, ...] = ()
    cluster: str = ""
    kind: str = "cls"
    extra: bool = False
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `rows` are those of each split on this machine's disk, None where the data is not there."""
        found = dataclasses.asdict(self)
        del found["details"], found["extra"]
        return {**found, "at_hand": self.is_at_hand(), "rows": self.rows()}

    def is_at_hand(self) -> bool:
        """Whether the data is on this machine's disk."""
        return any(count is not None for count in self.rows().values())

    def rows(self) -> dict[str, int | None]:
        """{split: rows of the source on this machine's disk}, None for what is not there."""
        if self.source == "gruut":
            is_there = importlib.util.find_spec("gruut_lang_en") is not None
            return {split: self.sizes[split] if is_there else None for split in self.splits}
        return on_disk.rows(self.source, self.splits)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """One mixture: its tasks by name, and how they are mixed, in words."""

    name: str
    module: str
    about: str
    tasks: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)


FLAN2021_CAP = 3_000
"""Training examples of a task that its rate in FLAN2021's mixtures counts, at most; FLAN's own."""

OFFICIAL = {"train": "train", "validation": "validation", "test": "test"}


@functools.cache
def super_glue() -> tuple[Entry, ...]:
    """SuperGLUE's tasks."""
    return tuple(
        _entry(f"super_glue_{name}", "cat_jax_tasks.super_glue", table, splits=OFFICIAL)
        for name, table in read("super_glue.toml").items()
    )


@functools.cache
def wmt22() -> tuple[Entry, ...]:
    """WMT22's directions, with T5's prompt and with others."""
    tables = read("wmt22.toml")
    entries = []
    for prefix, prompt in (("wmt22", "T5's prompt"), ("wmt22_templates", "one of ten prompts")):
        for direction, table in tables["directions"].items():
            source, target = direction.split("-")
            names = [tables["languages"][language][0] for language in (source, target)]
            splits = {"test": f"sacrebleu:wmt22/{direction}"}
            if table.get("validation"):
                splits = {"validation": f"sacrebleu:wmt21/{direction}", **splits}
            if "recipe" in table:
                codes = [tables["languages"][language][1] for language in (source, target)]
                fetched = f"mtdata:{table['recipe']}/train.{codes[0]}+{codes[1]}"
                published = f"wmt19_translate/{table['tfds']}:1.0.0 train" if "tfds" in table else ""
                splits = {"train": f"{fetched} or {published}" if published else fetched, **splits}
            entries.append(
                Entry(
                    name=f"{prefix}_{source}_{target}",
                    module="cat_jax_tasks.wmt22",
                    about=f"{names[0]} to {names[1]}, {prompt}",
                    source="sacrebleu:wmt22",
                    splits=splits,
                    metrics=("bleu", "chrf"),
                    license="research use",
                    sizes={"test": table["test"]},
                    kind="gen",
                    details=table,
                )
            )
    return tuple(entries)


@functools.cache
def flan2021() -> tuple[Entry, ...]:
    """FLAN2021's data sets, cluster by cluster."""
    found = []
    for file in sorted(_files("flan2021", "templates"), key=lambda file: file.name):
        tables = read("flan2021", "templates", file.name)
        cluster = tables.pop("cluster")
        for name, table in tables.items():
            options = tuple(table.get("label", {}).get("options", ()))
            more = {"options": options, "cluster": cluster if table.get("cluster_member", True) else ""}
            details = {**table, "file": file.name.removesuffix(".toml")}
            found.append(_entry(f"flan2021_{name}", "cat_jax_tasks.flan2021", details, **more))
    return tuple(found)


@functools.cache
def pronunciation() -> tuple[Entry, ...]:
    """The demo's lexicons."""
    table = read("pronunciation.toml")
    return tuple(
        _entry(f"pronunciation_{name}", "cat_jax_tasks.pronunciation", {**table["all"], **of_task})
        for name, of_task in table["tasks"].items()
    )


def entries() -> tuple[Entry, ...]:
    """All of them."""
    return (*super_glue(), *wmt22(), *flan2021(), *pronunciation())


def mixtures() -> tuple[Mixture, ...]:
    """The mixtures of all of them."""
    return (*_of_super_glue(), *_of_wmt22(), *of_flan2021(), *_joint(), *of_at_hand(), *_of_pronunciation())


def modules() -> tuple[str, ...]:
    """The modules that register all of them."""
    return tuple(dict.fromkeys(item.module for item in (*entries(), *mixtures())))


def _of_super_glue() -> tuple[Mixture, ...]:
    names = tuple(entry.name for entry in super_glue() if not entry.extra)
    return (Mixture("super_glue", "cat_jax_tasks.super_glue", "by training examples, as T5 mixes them", names),)


def _of_wmt22() -> tuple[Mixture, ...]:
    return tuple(
        Mixture(
            prefix,
            "cat_jax_tasks.wmt22",
            "by training examples, a million of each at most",
            tuple(entry.name for entry in wmt22() if entry.name.rpartition("_")[0].rpartition("_")[0] == prefix),
        )
        for prefix in ("wmt22", "wmt22_templates")
    )


def of_flan2021() -> tuple[Mixture, ...]:
    """FLAN2021: all, classification, generation, each cluster, and all but a cluster."""
    members = [entry for entry in flan2021() if entry.cluster]
    clusters = sorted({entry.cluster for entry in members})

    def mixture(name: str, about: str, chosen: Callable[[Entry], bool]) -> Mixture:
        tasks = tuple(entry.name for entry in members if chosen(entry))
        return Mixture(name, "cat_jax_tasks.flan2021", f"{about}; by training examples, 3,000 of each at most", tasks)

    found = [mixture("flan2021", "all clusters", lambda entry: True)]
    for kind, about in (("cls", "classification"), ("gen", "generation")):
        found.append(mixture(f"flan2021_{kind}", about, lambda entry, kind=kind: entry.kind == kind))
    for cluster in clusters:
        words = cluster.replace("_", " ")
        is_of = lambda entry, cluster=cluster: entry.cluster == cluster  # noqa: E731
        found.append(mixture(f"flan2021_cluster_{cluster}", f"the cluster {words}", is_of))
        is_other = lambda entry, cluster=cluster: entry.cluster != cluster  # noqa: E731
        found.append(
            mixture(f"flan2021_without_{cluster}", f"all clusters but {words}, for zero shots at it", is_other)
        )
    return tuple(found)


def _joint() -> tuple[Mixture, ...]:
    names = tuple(name for family in (_of_super_glue(), _of_wmt22(), of_flan2021()) for name in family[0].tasks)
    about = "SuperGLUE, WMT22 and FLAN2021 together; by training examples, 3,000 of each at most"
    return (Mixture("super_glue_wmt22_flan2021", "cat_jax_tasks.joint", about, names),)


def of_at_hand() -> tuple[Mixture, ...]:
    """What is on this machine's disk of the three families: all tasks, and those with training rows."""
    families = _joint()[0].tasks
    rows = {entry.name: entry.rows() for entry in entries() if entry.name in families}
    there = tuple(name for name in families if any(count is not None for count in rows[name].values()))
    trained = tuple(name for name in there if rows[name].get("train") is not None)
    about = "on this machine's disk; by training examples, 3,000 of each at most"
    return (
        Mixture("at_hand", "cat_jax_tasks.at_hand", f"all tasks {about}", there),
        Mixture("at_hand_train", "cat_jax_tasks.at_hand", f"tasks with training rows {about}", trained),
    )


def _of_pronunciation() -> tuple[Mixture, ...]:
    names = tuple(entry.name for entry in pronunciation())
    return (Mixture("pronunciation", "cat_jax_tasks.pronunciation", "equal shares", names),)


def read(*path: str) -> dict[str, Any]:
    """A TOML file of this package.

    Raises:
      ValueError: it is no TOML.
    """
    file = importlib.resources.files("cat_jax_tasks").joinpath(*path)
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as e:
        raise ValueError(f"{file}: {e}") from e


def _files(*path: str) -> list[Any]:
    directory = importlib.resources.files("cat_jax_tasks").joinpath(*path)
    return [file for file in directory.iterdir() if file.name.endswith(".toml")]


_FIELDS = ("about", "source", "splits", "metrics", "license", "sizes", "options", "kind", "extra")


def _entry(name: str, module: str, table: Mapping[str, Any], **more: Any) -> Entry:
    known = {field: table[field] for field in _FIELDS if field in table}
    for field in ("metrics", "options"):
        known[field] = tuple(known.get(field, ()))
    details = {field: value for field, value in table.items() if field not in _FIELDS}
    return Entry(name, module, details=details, **{**known, **more})
