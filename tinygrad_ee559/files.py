"""Writing files so that there is never half of one."""

from __future__ import annotations

import glob
import os
import shutil
import time
from pathlib import Path
from uuid import uuid4

_ABANDONED_SECONDS = 600.0


def replace(path: str | os.PathLike[str], content: bytes) -> None:
    """Put a file in place of another, in one step, once all of it is on the disk.

    A process that is killed on the way leaves a hidden file beside `path`, which nobody reads; the
    next call for the same path removes it when nothing has been written to it for ten minutes. The
    new file may be read and written by those who could read and write the old one.

    Raises:
        OSError: the content cannot be written; what was at `path` before is unchanged.
    """
    path = place(path)
    _remove_abandoned(path)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            if path.exists():
                shutil.copymode(path, unfinished)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def place(path: str | os.PathLike[str]) -> Path:
    """Where a file of this name would be written: where links lead, so that a link stays a link.

    Raises:
        OSError: links lead in a circle, the name is none, or no file can be made in the folder.
    """
    try:
        os.stat(path)
    except FileNotFoundError:
        pass
    except ValueError as error:
        raise OSError(f"{os.fspath(path)!r} is not the name of a file: {error}") from error
    path = Path(path).resolve()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"make the folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"make the folder {path.parent} writable")
    return path


def _remove_abandoned(path: Path) -> None:
    """Remove what killed writers left; a file that is younger may have a writer yet."""
    begun = time.time() - _ABANDONED_SECONDS
    for other in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 32}"):
        try:
            if other.stat().st_mtime < begun:
                other.unlink()
        except OSError:  # somebody else removed it, or it is not ours
            continue
