"""What a server does with an index beside its model."""
