"""The learned quality score: labels by annotation, training of the scorers, and how good they are."""
