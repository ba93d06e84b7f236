"""Writing files so that there is never half of one."""

from __future__ import annotations

import glob
import os
import time
from pathlib import Path
from uuid import uuid4

_ABANDONED_SECONDS = 600.0


def replace(path: str | os.PathLike[str], content: bytes) -> None:
    """Put a file in place of another, in one step, once all of it is on the disk.

    A process that is killed on the way leaves a hidden file beside `path`, which nobody reads; the
    next call for the same path removes it when nothing has been written to it for ten minutes.

    Raises:
        OSError: the content cannot be written; what was at `path` before is unchanged.
    """
    path = Path(path).resolve()  # a link stays a link
    _remove_abandoned(path)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove what killed writers left; a file that is younger may have a writer yet."""
    begun = time.time() - _ABANDONED_SECONDS
    for other in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 32}"):
        try:
            if other.stat().st_mtime < begun:
                other.unlink()
        except OSError:  # somebody else removed it, or it is not ours
            continue
