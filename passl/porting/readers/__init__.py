"""One reader for each format of weight files. Nothing in a file is executed."""
