"""Documents: finding, reading and identifying them, and the shards that hold them. Nothing here imports torch."""
