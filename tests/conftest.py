"""Fixtures of the whole suite."""

from __future__ import annotations

pytest_plugins = ["tiny_models"]  # tests/support, on the path by pyproject.toml
