"""Bytes from the disk and the network: atomic writes, downloads, hostile files as plain data."""
