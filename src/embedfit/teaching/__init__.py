"""Teachers of the whole corpus, the targets that they set, and the linear map on query vectors that learns them."""
