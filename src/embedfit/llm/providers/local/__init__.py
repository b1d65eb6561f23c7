"""A small instruct model on this machine, from a GGUF file or a Hugging Face folder."""
