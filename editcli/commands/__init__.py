"""The commands, in folders as ``--help`` groups them: each parses, calls an operation, prints.

A command may import everything else in ``editcli``; only ``app`` imports commands.
"""
