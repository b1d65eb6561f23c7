"""Taking a question or a document out of everything that embedfit keeps."""
