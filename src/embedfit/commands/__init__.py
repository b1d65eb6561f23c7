"""The functions behind the commands, which Python code may call too."""
