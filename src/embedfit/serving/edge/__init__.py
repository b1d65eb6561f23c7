"""The server's protection from its clients: limits of connections and bodies, and keys."""
