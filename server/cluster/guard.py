"""Between a replica and its server, so that the server is told to stop however the replica ends.

    python -m server.cluster.guard ARGUMENTS OF mavis

A cluster ends what overstays with SIGKILL, and Ray its immediate children, too. A server that is killed so leaves
vLLM's engine and workers, and their memory, to nobody. This process dies in its place: the server then gets SIGTERM.

Runs in a process of its own. No torch, no vLLM.
"""

import signal
import subprocess
import sys

from server.start.stopping import end_with_parent

_KILLED = 128
"""Plus the signal's number: how a shell tells it."""


def main() -> int:
    """Run the server, hand signals on to it, and return its exit status."""
    server = subprocess.Popen([sys.executable, "-m", "server.cli", *sys.argv[1:]], preexec_fn=end_with_parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: server.send_signal(received))
    status = server.wait()
    return status if status >= 0 else _KILLED - status


if __name__ == "__main__":
    sys.exit(main())
