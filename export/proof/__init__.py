"""Proves that every artifact of a bundle computes what the oracle computes."""
