"""`python -m um_bench` is `um-bench`."""

from um_bench.cli import main

if __name__ == "__main__":
    main()
