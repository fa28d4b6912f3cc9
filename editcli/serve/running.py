"""Running the web application until somebody ends it."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from copy import deepcopy

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import LOGGING_CONFIG

ACCESS_LOG = 1  # -v


def serve_until_interrupted(app: ASGIApp, listener: socket.socket, verbose: int) -> None:
    """Serve ``app`` on ``listener`` until Ctrl-C or SIGTERM; then, or at the second Ctrl-C at once,
    end the requests that are being answered. From ``verbose`` 1 on, each request is logged.

    To be called in the main thread.
    """
    log = deepcopy(LOGGING_CONFIG)
    log["handlers"]["access"]["stream"] = "ext://sys.stderr"  # stdout is for data
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=log,
        log_level="info" if verbose else "warning",
        access_log=verbose >= ACCESS_LOG,
    )
    # The server raises again, at its end, the signals that it obeyed.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
