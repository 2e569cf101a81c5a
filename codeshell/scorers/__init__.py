"""Scorers: measures of documents, as columns beside them. A rule reads these columns; a scorer decides nothing."""
