"""The commands, in folders as ``--help`` groups them: each parses, calls an operation, prints.

May import everything else in ``editcli``; nothing imports a command but ``app``.
"""
