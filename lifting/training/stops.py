"""Ctrl-C and SIGTERM in training: the step is finished and the state saved before the process ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from lifting.command import Terminated
from lifting.training import ranks

_ERRORS: dict[int, type[BaseException]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


class Stops:
    """While this is open, a signal is noted, not obeyed; `raise_noted` obeys it when the state is safe.

    A second Ctrl-C is obeyed at once. Not under torchrun, which repeats the first one to each of its processes.
    Outside the main thread, where Python does not let signals be handled, nothing is noted.

    Attributes:
        noted: the number of the signal, 0 for none.
    """

    def __init__(self) -> None:
        self.noted = 0
        self._immediate = False
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "Stops":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _ERRORS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.noted and number == signal.SIGINT and ranks.world() == 1
        self.noted = number
        if again or self._immediate:
            raise _ERRORS[number]

    def raise_noted(self) -> None:
        """Raises `KeyboardInterrupt` or `Terminated` if a signal was noted."""
        if self.noted:
            raise _ERRORS[self.noted]

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Signals are obeyed at once in this block, which changes nothing that has to be saved."""
        self._immediate = True
        try:
            self.raise_noted()
            yield
        finally:
            self._immediate = False
