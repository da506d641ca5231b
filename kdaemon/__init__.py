"""kdaemon: delivers records to Kinesis Data Streams and Yandex Data Streams."""
