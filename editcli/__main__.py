"""`python -m editcli`, and the script `editcli`."""

import signal


def run() -> None:
    """Run the command. Ctrl-C while it is imported ends it without a traceback."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from editcli.app import main

    if usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()


if __name__ == "__main__":
    run()
