"""`python -m accord.cli`, which `accelerate launch -m` starts."""

from accord.cli import main

if __name__ == "__main__":  # processes that it spawns import this too
    main()
