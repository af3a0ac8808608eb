"""Draws the results of a cascade: report.html and curve.svg, and the table for a terminal."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from cat_jax.files import atomic_write
from cat_jax.report.page import render_report
from cat_jax.report.standalone import standalone_curve
from cat_jax.report.text import objectives_table


@dataclasses.dataclass(frozen=True)
class Report:
    """What `write_report` made."""

    table: str
    """The table of objectives as plain text."""
    report_path: pathlib.Path
    picture_path: pathlib.Path


def write_report(results: dict[str, Any], output_dir: str | os.PathLike) -> Report:
    """Writes report.html and curve.svg into `output_dir`, each whole or not at all. Equal results give equal bytes.

    Args:
      results: the content of results.json, as `cascade` returned it or as it was read back.
      output_dir: for the files.

    Raises:
      UserError: a file cannot be written.
    """
    output_dir = pathlib.Path(output_dir)
    made = Report(objectives_table(results), output_dir / "report.html", output_dir / "curve.svg")
    atomic_write(made.report_path, render_report(results).encode())
    atomic_write(made.picture_path, standalone_curve(results).encode())
    return made
