"""The way of a run: its stages in order, its folder and files, and what is up to date."""
