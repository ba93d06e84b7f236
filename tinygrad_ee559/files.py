"""Writing files so that there is never half of one."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def replace(path: str | os.PathLike[str], content: bytes) -> None:
    """Put a file in place of another, in one step, once all of it is on the disk.

    Raises:
        OSError: the content cannot be written; what was at `path` before is unchanged.
    """
    path = Path(path).resolve()  # a link stays a link
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
