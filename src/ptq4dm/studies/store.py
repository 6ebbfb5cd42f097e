"""The rows of a study as files: each is saved whole as soon as it is known, so that nothing known is lost."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ptq4dm.errors import ArtifactError
from ptq4dm.files import fingerprint, read_json, write_json

FORMAT_VERSION: Final = 2
"""Of rows; a row of another version is measured again."""

Row = dict[str, Any]
"""What is known of one variant of a question, as JSON data (`rows`)."""


@dataclass(frozen=True)
class Store:
    """The folder of a study's rows: `rows/QUESTION/VARIANT-FINGERPRINT.json`."""

    folder: Path

    def place(self, question: str, variant: str, key: str) -> Path:
        """The file of a row."""
        words = re.sub(r"[^a-z0-9.]+", "-", variant.lower()).strip("-")[:60]
        return self.folder / "rows" / question / f"{words}-{key}.json"

    def find(self, question: str, variant: str, key: str) -> Row | None:
        """A saved row, None if there is none or it is damaged (it is then measured again)."""
        return self.readable(self.place(question, variant, key), key)

    def readable(self, path: Path, key: str) -> Row | None:
        """The row of a file, None if it is not that one."""
        try:
            row = read_json(path)
        except ArtifactError:
            return None
        known = isinstance(row, dict) and row.get("key") == key and row.get("format_version") == FORMAT_VERSION
        return row if known else None

    def same(self, key: str) -> Row | None:
        """A row of that key under any question, so that nothing is measured twice."""
        places = sorted(self.folder.glob(f"rows/*/*-{key}.json"))
        return self.readable(places[0], key) if places else None

    def save(self, row: Row) -> None:
        """Write a row, whole or not at all."""
        write_json(self.place(row["question"], row["variant"], row["key"]), row)


def row_key(identity: Mapping[str, Any]) -> str:
    """The fingerprint of all that a row depends on, JSON data."""
    return fingerprint({}, FORMAT_VERSION, json.loads(json.dumps(identity, allow_nan=False)))
