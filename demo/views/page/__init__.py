"""The page that shows the demo in a browser: its server, what it sends, and what it accepts from visitors."""
