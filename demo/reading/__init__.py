"""Reads the numbers that are written in a picture."""
