"""The page of demo.py: what it does (`service`), its tabs with their fields (`controls`), and all of it (`app`)."""
