"""Publication of tables and blobs."""
