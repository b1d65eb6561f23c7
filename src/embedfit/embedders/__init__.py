"""Models that turn texts into vectors elsewhere: behind an address, at AWS; and the table of their kinds."""
