"""Files of a run that grow by a line of JSON at a time, and shrink where a run goes back to a checkpoint. No torch."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from modelzoo.base_config import UserError
from modelzoo.files import OUT_OF_SPACE, write_text


def append_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add a line for each record. JSON has no NaN and no infinity: null stands for them, and for what is unknown."""
    try:
        with path.open("a", encoding="utf-8") as file:
            for record in records:
                file.write(_line({name: _in_json(value) for name, value in record.items()}))
    except OSError as error:
        if error.errno not in OUT_OF_SPACE:
            raise
        raise UserError(f"{path}: no space left on the device; free some and start the same command again") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file, if there is one; a last line that a killed process left unfinished is passed over."""
    records = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
    return records


def keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Drop all other records of a file, if there is one."""
    if path.is_file():
        write_text(path, "".join(_line(record) for record in read_lines(path) if wanted(record)))


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _in_json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
