"""`python -m thincow` is the command `thincow`."""

from thincow.cli.main import main

if __name__ == "__main__":
    main()
