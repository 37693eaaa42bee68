"""Say which extra is missing, once, for every command that needs one."""

from importlib.util import find_spec

from litseq.errors import UsageError

# What the commands of an extra import; any one of them may be the one that is missing.
_WITNESSES = {
    "train": ("torch", "lightning", "onnx", "onnxscript", "jsonargparse", "torchmetrics"),
    "datasets": ("datasets",),
    "quantize": ("onnx_ir", "onnx", "ml_dtypes"),
}


def require_extra(extra: str, purpose: str) -> None:
    """Fail with the install command when `extra` is not installed.

    Args:
        extra: The name of an extra of pyproject.toml, e.g. `"train"`.
        purpose: What asked for it, e.g. `"litseq export"`; it begins the message.

    Raises:
        UsageError: A package of the extra cannot be found.
    """
    missing = [name for name in _WITNESSES[extra] if not _can_find(name)]
    if missing:
        msg = (
            f"{purpose} needs {', '.join(missing)}, which this Python does not have; "
            f"install the extra: pip install 'litseq[{extra}]'"
        )
        raise UsageError(msg)


def _can_find(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # sys.modules[name] is None: blocked on purpose, as the tests do
        return False
