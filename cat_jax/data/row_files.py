"""Rows that another program wrote: JSON lines or Parquet, one example a row. Which fields they have is the reader's."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cat_jax.errors import UserError

_BATCH_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class RowFiles:
    """What is read of such files.

    Attributes:
      fields: the names that mean something; others are let be.
      what: what the files hold, for messages: "the signal".
      mend: where it says what a row has.
    """

    fields: frozenset[str]
    what: str
    mend: str

    def read(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Of each row where it is, for messages, and its fields, less those that are null.

        Args:
          path: ends in .jsonl or .parquet.

        Raises:
          UserError: the file is missing or of another kind, or a row is no object, or a field looks misspelt.
        """
        file = pathlib.Path(path)
        readers = {".jsonl": self._json_lines, ".parquet": self._parquet}
        if file.suffix not in readers:
            raise UserError(f"{path} is neither .jsonl nor .parquet", "give the file the ending of what it is")
        if not file.is_file():
            raise UserError(f"there is no file {path}", f"name the files of {self.what} to import")
        for where, fields in readers[file.suffix](file):
            yield where, {name: value for name, value in fields.items() if value is not None}

    def digest(self, paths: Sequence[str]) -> str:
        """A name for the content of files, in their order."""
        digest = hashlib.sha256()
        for path in paths:
            try:
                with open(path, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as e:
                raise UserError(f"cannot read {path} ({e.strerror})", f"name the files of {self.what} to import") from e
        return digest.hexdigest()

    def _json_lines(self, file: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                where = f"{file} line {number}"
                if not line.strip():
                    continue
                try:
                    fields = json.loads(line)
                except ValueError as e:  # not of UTF-8 either
                    raise UserError(f"{where} is not JSON ({e})", self.mend) from e
                if not isinstance(fields, dict):
                    raise UserError(f"{where} is no object with fields", self.mend)
                self._refuse_misspelt(where, fields)
                yield where, fields

    def _parquet(self, file: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.ParquetFile(file)
            self._refuse_misspelt(str(file), table.schema_arrow.names)
            columns = [name for name in table.schema_arrow.names if name in self.fields]
            number = 0
            for batch in table.iter_batches(_BATCH_ROWS, columns=columns):
                for fields in batch.to_pylist():
                    number += 1
                    yield f"{file} row {number}", fields
        except (pa.ArrowException, OSError) as e:
            raise UserError(f"{file} is not a Parquet file ({e})", self.mend) from e

    def _refuse_misspelt(self, where: str, names: Iterable[str]) -> None:
        """Fields of one's own are let be; one that is nearly ours, where ours is lacking, is meant for it."""
        names = list(names)
        for name in names:
            close = difflib.get_close_matches(name, self.fields - set(names), n=1, cutoff=0.8)
            if name not in self.fields and close:
                raise UserError(f"{where} has a field {name!r}", f"did you mean {close[0]}? {self.mend}")
