"""Boosted trees over columns and a linear head on hashed n-grams of a text: training, evaluation, and their file.

trees      regression trees for several targets at once, grown and evaluated in C++ (csrc/boosting)
ngrams     hashed n-grams of a text with quantised weights
linear     a linear score on columns
isotonic   a rising line of pieces from a raw score to a calibrated one
container  named arrays in one checked file
quality_model  all of these as one quality model
"""

from __future__ import annotations
