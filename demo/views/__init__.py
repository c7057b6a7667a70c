"""Shows what was read: in a window, on a page, in recordings and snapshots, and over MQTT."""
