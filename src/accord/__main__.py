"""`python -m accord`, which is the command `accord`."""

from accord.cli import main

if __name__ == "__main__":  # processes that it spawns import this too
    main()
