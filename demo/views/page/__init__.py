"""The demo's page in the browser, and the server behind it."""
