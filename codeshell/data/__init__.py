"""The stages of the data pipeline: collect, filter, neardup, score, select, split, tokens. No file imports torch."""
