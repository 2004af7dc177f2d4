"""The page of demo.py: what it does (`service`), its fields (`controls`), and how it looks (`app`)."""
