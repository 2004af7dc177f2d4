"""Text as tokens, and tokens as text."""
