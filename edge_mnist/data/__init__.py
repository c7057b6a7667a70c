"""Images to train, calibrate and verify on: MNIST, drawn digits, and images that are not digits."""
