"""The folder of a run: what its files are called, and whether it holds one; importing this takes nothing heavy."""

from pathlib import Path

from fbp.errors import FbpError

CHECKPOINTS, WEIGHTS, HISTORY, MANIFEST = "checkpoints", "weights.safetensors", "history.csv", "manifest.json"
"""What `fbp.fit` writes."""
CONFIG, DATA = "config.toml", "data.json"
"""What `fbp train` writes besides: its options, and what is known of the data."""


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def check_new(folder: Path) -> None:
    """Refuse a folder that holds a run, before anything else is done.

    Raises:
        FbpError: it does.
    """
    if list_checkpoints(folder / CHECKPOINTS) or (folder / WEIGHTS).exists():
        raise FbpError(
            f"a new run must have a new folder, got {folder}, which holds one; go on with it (fbp train --resume "
            f"{folder}, or fit(..., resume=True)), or use another folder"
        )
