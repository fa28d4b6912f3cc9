"""Versions on disk: content-addressed blobs, manifests, and a chained history. Imports no model."""
