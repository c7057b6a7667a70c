"""The trained networks that this package ships."""
