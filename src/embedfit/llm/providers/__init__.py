"""Who writes replies: one module or package each. `registry` lists them."""
