"""The live demo: reads handwritten numbers from a camera and shows them in a window, on a page, or as lines."""

from __future__ import annotations

import os

# OpenCV reads these variables when it is loaded, so that they are set before any module of the demo imports it. Its own
# messages and those of FFmpeg are switched off, as the demo reports in one line what a user needs to know.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
