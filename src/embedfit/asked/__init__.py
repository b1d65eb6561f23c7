"""Questions that people asked: a search log, with or without known answers."""
