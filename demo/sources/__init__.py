"""Where frames come from: cameras, image files, films, streams and drawn scenes."""
