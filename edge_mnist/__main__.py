"""`python -m edge_mnist` is the `edge-mnist` command."""

from edge_mnist.cli import main

if __name__ == "__main__":
    main()
