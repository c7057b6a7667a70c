"""An emulated Raspberry Pi, and what is measured in it: `python -m benchmarks.pi`."""
