"""What the operating system offers to every other package: errors, files, processes, signals and warnings."""
