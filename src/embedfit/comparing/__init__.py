"""`embedfit compare`: any systems and saved runs on the same questions, with paired statistics."""
