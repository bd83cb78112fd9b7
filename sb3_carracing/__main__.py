"""`python -m sb3_carracing`."""

from sb3_carracing.cli import main

if __name__ == "__main__":
    main()
