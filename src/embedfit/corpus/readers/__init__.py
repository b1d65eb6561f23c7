"""One reader for each format: a file's path → its blocks."""
