"""Releases: written, packed, imported, tried in every runtime."""
