"""`python -m aioxide`: run a program, or a REPL, on native loops. See `_cli`."""

from aioxide._cli import main

if __name__ == "__main__":
    main()
