"""What the scripts share of the command line: flags, prompts, messages, files."""
