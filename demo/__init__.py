"""The live demo: sources, reader, views."""

from __future__ import annotations

import os

# OpenCV reads them when it is loaded; what it and FFmpeg find worth a line, the user gets as a line of ours.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
