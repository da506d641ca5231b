"""kdaemon: delivers records to Kinesis Data Streams and Yandex Data Streams."""

__version__ = "0.1.0"  # as pyproject.toml says; the metadata of the installation takes 9 ms to read
