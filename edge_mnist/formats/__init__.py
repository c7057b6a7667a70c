"""What an artifact's format is, and how the contract inside a file is read without running it."""
