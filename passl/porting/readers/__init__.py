"""One reader for each weight file format; nothing in a file is executed."""
