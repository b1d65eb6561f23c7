"""Training losses: one file each, and the entry points of the group embedfit.losses name them."""
