"""The live loop: reads frames, and follows the numbers in them from frame to frame."""
