"""Executors do work on shards: in this process, in processes of this machine, or wherever a plug-in takes it."""
