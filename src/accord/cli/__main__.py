"""`python -m accord.cli`, which `accelerate launch -m` starts."""

from accord.cli import main

main()
