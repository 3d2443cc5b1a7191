"""Work in threads for an interface: each kind once at a time, cancelled when outdated, errors shown to the user."""

from collections.abc import Callable

from textual.app import App
from textual.worker import Worker, WorkerState, get_current_worker

from ocifs.errors import OcifsError

Stop = Callable[[], bool]
"""Returns whether the result of the work is outdated."""


class BackgroundApp(App[None]):
    """An application with work in threads."""

    def note(self, topic: str, text: str) -> None:
        """Show what is in progress on a topic; empty when it has ended."""
        raise NotImplementedError

    def in_thread(self, group: str, work: Callable[[Stop], None]) -> None:
        """Run work in a thread, and cancel earlier work of the same kind."""

        def run() -> None:
            worker = get_current_worker()
            work(lambda: worker.is_cancelled)

        self.run_worker(run, group=group, thread=True, exclusive=True, exit_on_error=False)

    def done(self, stop: Stop, take: Callable[[], None]) -> None:
        """Post a result from a thread to the screen, unless it is outdated."""
        if not stop():
            self.call_from_thread(lambda: None if stop() else take())

    def on_worker_state_changed(self, message: Worker.StateChanged) -> None:
        """Report an error from a thread."""
        if message.state != WorkerState.ERROR:
            return
        error = message.worker.error
        if isinstance(error, OcifsError | OSError):
            self.note(message.worker.group, "")
            self.notify(str(error), severity="error", timeout=10, markup=False)
        elif error is not None:
            raise error
