"""`python -m kdaemon` and the `kdaemon` script: hands over to the commands."""

from kdaemon.cli import cli
from kdaemon.system import fill_descriptors


def main() -> None:
    fill_descriptors()
    cli(prog_name="kdaemon")


if __name__ == "__main__":
    main()
