"""Puzzles, in which the order of writing matters."""
