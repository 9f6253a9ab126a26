"""Event files for TensorBoard, of trainings while they run; the extra `tensorboard` writes them."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from um_bench.errors import StorageError, UsageError


def require_tensorboard() -> None:
    """Refuse to start without what writes event files.

    Raises:
        UsageError: if it is not installed; the extra is named.
    """
    try:
        import tensorboardX  # noqa: F401 - whether it is there
    except ImportError as error:
        raise UsageError(
            'event files need tensorboardX, which is not installed: pip install "um-bench'
            '[tensorboard]". To look at them, also: pip install tensorboard.'
        ) from error


class Events:
    """The event file of one training, in a folder of its own; closed at the end of a `with` block.

    What a run that was killed left there is kept; TensorBoard shows the new values in its place.

    Raises:
        StorageError: if it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        try:
            self._writer = SummaryWriter(str(folder), purge_step=0)
        except OSError as error:
            raise StorageError(
                f"{folder}: event files cannot be written ({error.strerror or error}); give "
                "another --tensorboard"
            ) from error

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write numbers by name, as they are after so many epochs."""
        for name, value in values.items():
            # What TensorBoard has no place for in a name it replaces itself, with a complaint.
            self._writer.add_scalar(re.sub(r"[^-/\w.]", "_", name), value, epoch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
