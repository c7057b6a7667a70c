"""The trained networks that this package ships."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "digitnet.safetensors"
"""The checkpoint that comes with the package."""
SHIPPED_INT8 = SHIPPED.with_name("digitnet_int8.tflite")
"""What `export --int8` makes of it."""
FINDER = SHIPPED.with_name("finder.safetensors")
"""The checkpoint of the network that finds digits in a frame."""
SHIPPED_FINDER = SHIPPED.with_name("finder_int8.tflite")
"""What `export --int8` makes of it."""
