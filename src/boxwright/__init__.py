"""The program: the part that knows the command line, conf/ and a run's folder.

`from boxwright import load_detector` turns a checkpoint into a function from pictures to detections.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxwright.checkpoints.detector import load_detector as load_detector

__all__ = ["load_detector"]


def __getattr__(name: str) -> Any:
    """Imports `load_detector`, and with it torch and Lightning, only when it is asked for."""
    if name == "load_detector":
        from boxwright.checkpoints.detector import load_detector

        return load_detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
