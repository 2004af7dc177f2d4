"""Which positions to write, and which to open again: a class for each published strategy."""
