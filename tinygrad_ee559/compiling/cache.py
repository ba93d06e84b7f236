"""Programs on disk: what one process has compiled, the next one loads."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

_HERE = Path(__file__).parent


def directory() -> Path:
    """Where compiled programs are kept: in the user's cache directory, XDG_CACHE_HOME."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "tinygrad_ee559" / "compiled"


def key(*parts: str) -> str:
    """A name for a program, of all that decides what it is: the processor and this code too."""
    digest = hashlib.sha256()
    code = "".join(file.read_text() for file in sorted([*_HERE.glob("*.py"), *_HERE.glob("*.h")]))
    for part in (torch.__version__, _processor(), code, *parts):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def load(name: str) -> tuple[str, Any] | None:
    """The path of a program's library and its description, None if it is not there, or damaged."""
    library, description = (directory() / name / file for file in ("program.so", "program.json"))
    try:
        found = json.loads(description.read_text())
        whole = found["digest"] == _digest(library)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return (str(library), found) if whole else None


def discard(name: str) -> None:
    """Remove a program that is not whole, so that another one can take its place."""
    shutil.rmtree(directory() / name, ignore_errors=True)


def store(name: str, library: str, source: str, description: dict[str, Any]) -> None:
    """Keep a program and its source in C++; nobody sees half of it.

    Where nothing can be written, nothing is kept.
    """
    target = directory() / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent))
    except OSError:
        return
    try:
        shutil.copyfile(library, folder / "program.so")
        (folder / "program.cpp").write_text(source)
        found = {"digest": _digest(folder / "program.so"), **description}
        (folder / "program.json").write_text(json.dumps(found))
        folder.rename(target)
    except OSError:  # another process was quicker, or the disk is full
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _digest(library: Path) -> str:
    """What tells a library from one that was damaged, which would crash the process."""
    return hashlib.sha256(library.read_bytes()).hexdigest()


def _processor() -> str:
    """What distinguishes processors for which code is compiled differently."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
