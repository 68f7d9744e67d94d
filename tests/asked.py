"""Tells what a run of the suite was asked for: what takes minutes is collected only when it is named."""

from __future__ import annotations

from pathlib import Path


def is_named(folder: Path, config) -> bool:
    """Say whether a word of pytest's command line is the folder, or in it."""
    paths = (Path(word.partition("::")[0]).resolve() for word in config.args)
    return any(folder in (path, *path.parents) for path in paths)
