"""What scoreboard.py and compare.py measure with."""
