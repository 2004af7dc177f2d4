"""Texts that exist in part: blanks, rewriting, interpolation, scoring."""
