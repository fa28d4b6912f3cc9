"""What methods that train a projection share. Imports ``scope``, ``inference`` and ``model``."""
