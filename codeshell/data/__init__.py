"""The stages of the data pipeline: collect, filter, neardup, score, select, split, tokens. Nothing here imports torch."""
