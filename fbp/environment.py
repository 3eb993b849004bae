"""What numbers depend on beside the code: the versions of what computes, and the device."""

import importlib.metadata
import os
import platform


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that compute, by name."""
    installed = {"python": platform.python_version()}
    for name in ("fbp", "jax", "jaxlib", "numpy"):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def device() -> str:
    """The accelerator, or the kind of machine whose CPU it is."""
    import jax

    kind = jax.devices()[0].device_kind
    return f"{kind} ({platform.machine()}, {os.cpu_count()} cores)" if kind == "cpu" else kind
