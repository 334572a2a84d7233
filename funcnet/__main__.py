"""`python -m funcnet`: the command, where its script is not on the path."""

from funcnet.cli import program

if __name__ == "__main__":
    program()
