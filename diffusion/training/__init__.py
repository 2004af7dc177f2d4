"""What finetune.py trains with."""
