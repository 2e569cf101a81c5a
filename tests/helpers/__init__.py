"""What the tests of several rooms share: cases, references, small models, runs and corpora."""
