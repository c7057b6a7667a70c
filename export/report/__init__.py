"""Presents a parity report on the terminal, as JSON and as an HTML page."""
