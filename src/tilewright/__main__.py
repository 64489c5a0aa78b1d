"""`python -m tilewright`: the command."""

from tilewright.cli.main import main

if __name__ == "__main__":
    main()
