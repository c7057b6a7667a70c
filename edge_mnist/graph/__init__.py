"""The network as plain data, from the trained layers to the integers of the int8 network; it needs NumPy only."""
