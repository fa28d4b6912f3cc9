"""The socket that a server listens on."""

from __future__ import annotations

import errno
import socket

from editcli.errors import UsageError
from editcli.models.libraries import reason_of

BACKLOG = 2048  # clients that may wait while the model is loaded

_HINTS = {
    errno.EADDRINUSE: "`--port 0` takes a free port",
    errno.EACCES: "name a port above 1023: `--port 8000`",
    errno.EADDRNOTAVAIL: "`--host` names an address of this machine",
}


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port``; port 0 takes a free one.

    Raises UsageError where that is not possible.
    """
    try:
        [*_, (family, _, _, _, address)] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason = "it is in use" if error.errno == errno.EADDRINUSE else reason_of(error)
        raise UsageError(
            f"cannot listen on port {port} of {host}: {reason}",
            _HINTS.get(error.errno or 0, "`--host` and `--port` say where to listen"),
        ) from error


def is_loopback(listener: socket.socket) -> bool:
    """Whether only programs on this machine can reach the socket."""
    host: str = listener.getsockname()[0]
    return host == "::1" or host.startswith("127.")


def url_of(listener: socket.socket) -> str:
    """Where the server's endpoints are, for a client of OpenAI's API."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
