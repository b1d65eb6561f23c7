"""What protects the server from its clients: bodies, limits, keys."""
