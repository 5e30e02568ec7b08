"""One worker of `edgewise serve --workers N`: `python -m server.worker FD`, as `server.workers` starts it.

FD is the bound socket that all workers share. The first line of standard input has the settings;
its end means that the process which keeps the workers is gone, and asks this one to end well.
"""

from __future__ import annotations

import socket
import sys

from server import serving, workers
from server.cli import guarded


def main() -> None:
    """Serve until a signal comes or nobody keeps us; ends with the exit codes of every command."""
    settings = workers.read_settings(sys.stdin.buffer.readline())
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        guarded(lambda: serving.work(settings, listener))


if __name__ == "__main__":
    main()
