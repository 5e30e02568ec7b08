"""`python -m server` is `edgewise`."""

from server.cli import main

if __name__ == "__main__":
    main()
