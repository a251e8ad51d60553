"""A pseudo-terminal: what is written to it can be read while the writer goes on."""

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence

from rich.console import Console

_ON_OWN_TERMINAL = """
import fcntl, termios
from monosem.cli import main
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C reaches this process
main()
"""


class Screen:
    """The reading side of a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.seen = ""

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        """Read until `text` has been seen."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} did not come; the screen has {self.seen!r}"
            self.read(0.1)

    def type(self, text: str) -> None:
        """Send keys."""
        os.write(self.descriptor, text.encode())

    def read(self, seconds: float = 0.0) -> str:
        """What is there now, or comes within `seconds`; added to `seen`."""
        fresh = b""
        while select.select([self.descriptor], [], [], 0 if fresh else seconds)[0]:
            try:
                piece = os.read(self.descriptor, 1 << 16)
            except OSError:  # Linux: the other side is closed
                break
            if not piece:
                break
            fresh += piece
        self.seen += fresh.decode(errors="replace")
        return fresh.decode(errors="replace")


def set_width(descriptor: int, columns: int) -> None:
    """Tell a terminal its size."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))


@contextlib.contextmanager
def terminal(columns: int = 80) -> Iterator[tuple[Console, Screen]]:
    """A console on a pseudo-terminal, and its screen."""
    master, slave = pty.openpty()
    set_width(slave, columns)
    with os.fdopen(slave, "w", encoding="utf-8") as file:
        yield (
            Console(file=file, highlight=False, width=columns, force_terminal=True, color_system="standard"),
            Screen(master),
        )
    os.close(master)


@contextlib.contextmanager
def session(arguments: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], Screen]]:
    """The command line in a process whose terminal is a pseudo-terminal of 80 columns."""
    master, slave = pty.openpty()
    set_width(slave, 80)

    process = subprocess.Popen(
        [sys.executable, "-c", _ON_OWN_TERMINAL, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield process, Screen(master)
    finally:
        process.kill()
        process.wait()
        os.close(master)
