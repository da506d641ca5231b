"""`python -m kdaemon` and the `kdaemon` script: hands over to the commands."""

from kdaemon.cli import cli


def main() -> None:
    cli(prog_name="kdaemon")


if __name__ == "__main__":
    main()
