"""What a person sees of a generation: terminal, animation, page. Strings, no tensors."""
