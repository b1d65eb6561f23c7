"""Fakes of the outside world, for the tests of this package and of those who build on it."""
