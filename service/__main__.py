"""`python -m service`: the command `callsheet`, where its script is not on the path."""

from service.cli import main

if __name__ == "__main__":
    main(prog_name="callsheet")
