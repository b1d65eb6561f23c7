"""Finding passages: rankings, their metrics and what may be concluded from them."""
