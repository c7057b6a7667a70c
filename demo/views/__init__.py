"""Shows what is read: in a window, on a page, in a recording, in snapshots and over MQTT."""
