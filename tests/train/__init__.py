"""Tests of codeshell.train; a package so that its file names may be those of other rooms."""
