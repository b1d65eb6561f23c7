"""Addresses of servers and clients of AWS, for every part that uses a network."""
