"""Text from files or from the hub, and the blocks that it is packed into."""
