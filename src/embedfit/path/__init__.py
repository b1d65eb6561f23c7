"""The path of a run: its stages in order, its folder and files, and the freshness of each stage."""
