"""The stages of the data pipeline: collect, filter, neardup, split, tokens. Nothing here imports torch."""
