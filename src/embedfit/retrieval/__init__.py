"""Finding passages: rankings, their metrics, and the significance of differences."""
