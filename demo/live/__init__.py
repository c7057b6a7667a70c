"""The live loop: frames are read, and the numbers in them are followed from frame to frame."""
