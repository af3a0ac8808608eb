"""What `cat-jax tasks` prints."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cat_jax.cli.task_rows import Rows
    from cat_jax.data.overlap import Overlap

IN_FULL = 8
"""As many tasks are shown with everything that is known of them; of more, one line each."""

Item = Mapping[str, Any]


def closest(pattern: str, known: Mapping[str, Any]) -> str:
    """What to try instead of a name that nothing has."""
    near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
    inside = [name for name in known if pattern.strip("*") in name][:3]
    names = list(dict.fromkeys([*inside, *near]))
    if names:
        return f"did you mean {' or '.join(names)}?"
    return f"there are {', '.join(known) or 'none'}" if len(known) <= IN_FULL else "`cat-jax tasks` lists all"


def listing(items: Mapping[str, Item]) -> str:
    """One line each: name, rows of the splits, metrics, licence, whether the data is here; then the mixtures."""
    tasks = [item for item in items.values() if "tasks" not in item]
    rows = [("task", "rows", "metrics", "licence", "at hand")]
    rows += [(t["name"], sizes(t), ", ".join(t["metrics"]), t.get("license", ""), _at_hand(t)) for t in tasks]
    text = _columns(rows) if tasks else ""
    mixtures = [item for item in items.values() if "tasks" in item]
    if mixtures:
        lines = [("mixture", "tasks", "")]
        lines += [(m["name"], str(len(m["tasks"])), m.get("about", "")) for m in mixtures]
        text += ("\n\n" if text else "") + _columns(lines)
    here = sum(bool(item.get("at_hand")) for item in tasks)
    summary = f"{len(tasks)} tasks and {len(mixtures)} mixtures"
    return f"{text}\n\n{summary}" + (f"; the data of {here} tasks is on this machine" if here else "")


def in_full(items: Mapping[str, Item], rows: Mapping[str, Rows]) -> str:
    """Everything that is known of each, and the rows that were asked for."""
    return "\n\n".join(
        _mixture(item) if "tasks" in item else _task(item) + (_rows(rows[name]) if name in rows else "")
        for name, item in items.items()
    )


def sizes(item: Item) -> str:
    """`train 9,427, test 3,245`: rows on disk, else those of the official split, `?` where nobody knows.

    >>> sizes({"splits": {"train": "train", "test": "test"}, "rows": {"train": 7, "test": None}, "sizes": {"test": 9}})
    'train 7, test 9'
    """
    if "rows" not in item:
        return ", ".join(name if size is None else f"{name} {size:,}" for name, size in item["splits"].items())
    found = {name: item["rows"].get(name) or item.get("sizes", {}).get(name) for name in item["splits"]}
    return ", ".join(f"{name} {size:,}" if size else f"{name} ?" for name, size in found.items())


def overlap(found: Overlap) -> str:
    """The counts of an overlap and some of the rows."""
    lines = [
        f"{found.left} has {found.rows:,} rows, {found.right} {found.others:,}",
        f"  in both, exactly: {found.exact:,} ({100 * found.exact / max(found.rows, 1):.2f} %)",
        f"  in both, but for case, punctuation and space: {found.normalized:,} "
        f"({100 * found.normalized / max(found.rows, 1):.2f} %)",
    ]
    lines += [f"  such as {text[:160]!r}" for text in found.examples]
    return "\n".join(lines)


def _at_hand(item: Item) -> str:
    if "at_hand" not in item:
        return ""
    missing = [name for name, count in item["rows"].items() if count is None]
    if not item["at_hand"]:
        return "no"
    return f"without {', '.join(missing)}" if missing else "yes"


def _task(item: Item) -> str:
    lines = [item["name"] + (f": {item['about']}" if item.get("about") else "")]
    lines.append(f"  splits: {sizes(item)}")
    if item.get("features"):
        features = [f"{name} (vocabulary of {info['vocab_size']:,})" for name, info in item["features"].items()]
        lines.append(f"  features: {', '.join(features)}")
    elif item.get("at_hand") is not None:
        lines.append("  features: inputs and targets, of the vocabulary that CAT_JAX_VOCABULARY names")
    lines.append(f"  metrics: {', '.join(item['metrics'])}")
    if item.get("options"):
        lines.append(f"  options: {', '.join(item['options'])}")
    for name, label in (("cluster", "cluster"), ("source", "source"), ("license", "licence"), ("module", "module")):
        if item.get(name):
            lines.append(f"  {label}: {item[name]}")
    if "at_hand" in item:
        lines.append(f"  at hand: {_at_hand(item)}")
    return "\n".join(lines)


def _mixture(item: Item) -> str:
    about = f": {item['about']}" if item.get("about") else ""
    lines = [f"{item['name']} (mixture{about})"]
    if item.get("module"):
        lines.append(f"  module: {item['module']}")
    if item["tasks"] and isinstance(item["tasks"][0], str):
        return "\n".join([*lines, f"  {len(item['tasks'])} tasks: {', '.join(item['tasks'])}"])
    total = sum(task["rate"] for task in item["tasks"]) or 1.0
    return "\n".join([*lines, *(f"  {t['task']}: {100 * t['rate'] / total:.1f} %" for t in item["tasks"])])


def _rows(rows: Rows) -> str:
    lines = [f"\n  {rows.split}:"]
    for name, tokens in rows.tokens.items():
        length = rows.lengths.get(name)
        cut = "" if length is None else f"; {100 * rows.cut(name):.1f} % are longer than {length}"
        lines.append(
            f"    {name} of the first {len(tokens):,} rows: {int(tokens.min())} to {int(tokens.max())} tokens, "
            f"median {sorted(tokens)[len(tokens) // 2]}{cut}"
        )
    for row in rows.texts:
        lines.append("")
        for name, (text, count) in row.items():
            length = rows.lengths.get(name)
            cut = f", {count - length} would be cut" if length is not None and count > length else ""
            body = text.replace("\n", "\n" + " " * 6)
            lines.append(f"    {name} ({count} tokens{cut})\n      {body}")
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
