"""`python -m bt_margin`."""

from bt_margin.cli import main

if __name__ == "__main__":
    main()
