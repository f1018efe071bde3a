"""Bytes from disk and network: complete files, downloads, and hostile files as plain data."""
