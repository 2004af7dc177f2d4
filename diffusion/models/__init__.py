"""Everything that calls a network, and what is needed to load one."""
