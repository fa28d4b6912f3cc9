"""The scope signal ``relation``: which fact's subject a prompt names, and whether the prompt asks
the fact's question about it. Imports ``scope``."""
