"""Describes what a file is, for `edge-mnist info`."""
