"""The n-gram language model: csrc/ngram."""
