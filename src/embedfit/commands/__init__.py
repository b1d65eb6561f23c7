"""The verbs behind the commands, for callers from Python too."""
