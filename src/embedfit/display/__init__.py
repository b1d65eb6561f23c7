"""Output for people: the terminal and pages."""
