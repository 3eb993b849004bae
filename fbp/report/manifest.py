"""What a run depended on and what it left, so that it can be repeated: versions, device, data, command, hashes."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from typing import Any

from fbp.report.document import Report

SCHEMA, SCHEMA_VERSION = "fbp.manifest", 1


def manifest(report: Report, sha256: Mapping[str, str]) -> dict[str, Any]:
    """What `manifest.json` says of a report.

    Args:
        report: the report.
        sha256: of the files whose bits a repetition should give again, by their path in the folder.
    """
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "command": report.command,
        "configuration": dict(report.setting),
        "seed": report.seed,
        "data": dict(report.data),
        "versions": versions(),
        "device": device(),
        "sha256": dict(sha256),
    }


def versions() -> dict[str, str]:
    """Of Python and of what computes."""
    found = {"python": platform.python_version()}
    for name in ("fbp", "jax", "jaxlib", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def device() -> str:
    """The accelerator, or the kind of machine whose CPU it is."""
    import jax

    kind = jax.devices()[0].device_kind
    return f"{kind} ({platform.machine()}, {os.cpu_count()} cores)" if kind == "cpu" else kind
