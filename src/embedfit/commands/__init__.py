"""What the commands do, for Python callers too."""
