"""Measures how well a model reads, and how fast, how large and how hungry for memory it is."""
