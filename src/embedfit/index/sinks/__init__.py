"""Where the passages and vectors of an index can go: one file a format or a database, named by entry points."""
