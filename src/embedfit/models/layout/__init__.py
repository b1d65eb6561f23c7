"""Model folders: how they are read, their modules and prompts, and the proof that our vectors are right."""
