"""Presents a parity report on the terminal and as an HTML page."""
