"""The page on which a person grades search results: its routes, its server and its files."""
