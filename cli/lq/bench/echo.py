"""A process that answers each message with the same one: ``python -m lq.bench.echo DESCRIPTOR``."""

from __future__ import annotations

import socket
import sys


def main(descriptor: int) -> None:
    """Answer until the other end is closed."""
    with socket.socket(fileno=descriptor) as channel:
        channel.send(b"r")
        while message := channel.recv(65_536):
            channel.send(message)


if __name__ == "__main__":
    main(int(sys.argv[1]))
