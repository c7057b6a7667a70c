"""Where frames come from: cameras, image files, videos, streams and drawn scenes."""
