"""Sources of documents: files, folders, BEIR corpora, samples."""
