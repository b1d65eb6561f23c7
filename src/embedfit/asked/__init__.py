"""Questions that people really asked: a search log, with or without known answers."""
