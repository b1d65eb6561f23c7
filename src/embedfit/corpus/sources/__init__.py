"""Where documents come from: files, folders, BEIR corpora, samples."""
