"""`python -m ostiary`: the same program as `ostiary`, for a place where the script is not on the PATH."""

from ostiary.cli.main import main

if __name__ == "__main__":
    main(prog_name="ostiary")
