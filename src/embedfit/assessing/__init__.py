"""`embedfit assess`: which models and retrievers find most in these documents, before anything is trained."""
