"""Texts that exist in part: holes, rewriting, interpolation, scoring."""
