"""What every client of a network shares: addresses and AWS clients."""
