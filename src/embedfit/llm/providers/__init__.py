"""The providers of replies, one module or package each."""
