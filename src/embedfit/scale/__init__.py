"""Where work is done: here, in processes of this machine, or where a plug-in takes it."""
