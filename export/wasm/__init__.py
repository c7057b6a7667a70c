"""Writes WebAssembly: a module that computes a network, and a page that runs it in any browser."""
