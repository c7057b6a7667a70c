"""The live demo: sources, reader, views."""
